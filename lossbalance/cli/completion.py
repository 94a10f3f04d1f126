"""Tab completion: Hydra completes overrides, and here subcommands are completed and hidden from it."""

import os
from collections.abc import Iterable, Sequence

_FLAGS = ("-sc", "--shell-completion")
_HYDRA = ("train", "search")  # commands that take overrides


def is_query(arguments: Sequence[str]) -> bool:
    """Whether a shell asks for completions."""
    return len(arguments) == 2 and arguments[0] in _FLAGS and arguments[1].startswith("query=")


def answer(commands: Iterable[str]) -> bool:
    """Answers a query for a subcommand; of a line with one the subcommand is removed, so that Hydra can answer.

    Args:
        commands: The subcommands.

    Returns:
        Whether the query is answered.
    """
    line = os.environ.get("COMP_LINE", "")
    program, _, rest = line.partition(" ")
    first, space, others = rest.lstrip().partition(" ")
    if not space and "=" not in first:
        print(" ".join(command for command in commands if command.startswith(first)))
        return True
    if first in commands and first not in _HYDRA:
        return True
    if first in commands:
        os.environ["COMP_LINE"] = f"{program} {others.lstrip()}"
    return False
