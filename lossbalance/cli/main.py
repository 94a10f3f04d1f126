"""The command ``lossbalance``: dispatches to its subcommands."""

import sys
from collections.abc import Sequence
from importlib import import_module

from lossbalance import __version__
from lossbalance._utils.checks import did_you_mean
from lossbalance._utils.extras import explain_missing
from lossbalance.cli.completion import answer, is_query

_COMMANDS = {  # module, function, description
    "train": ("lossbalance.cli.train", "main", "trains one network on several losses; with -m, sweeps"),
    "eval": ("lossbalance.cli.evaluate", "main", "tests a checkpoint of a run"),
    "predict": ("lossbalance.cli.predict", "predict", "predicts the rows of a table by a run of task=table"),
    "export": ("lossbalance.cli.predict", "export", "writes a network of task=table with its scaling by torch.export"),
    "search": ("lossbalance.cli.search.arguments", "main", "searches schemes, weights and penalties with Optuna"),
    "report": ("lossbalance.sweeps.report", "main", "turns folders of runs into a table, pictures and an answer"),
}
_USAGE = f"""\
usage: lossbalance COMMAND ...

Train one network on several losses: weight them, balance them, and see what each one does.

{chr(10).join(f"  {name:8}{what}" for name, (_, _, what) in _COMMANDS.items())}

lossbalance COMMAND --help lists its settings; lossbalance --version prints the version.
"""


def main(arguments: Sequence[str] | None = None) -> int | str | None:
    """Runs the command that ``arguments``, by default those of this process, begin with; returns the exit code.

    Overrides without a command, such as ``loss=alpha``, are for ``train``: this is how Lightning starts the other
    processes of a training.
    """
    first, *others = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if first in ("-h", "--help"):
        print(_USAGE, end="")
        return 0
    if first == "--version":
        print(f"lossbalance {__version__}")
        return 0
    if is_query([first, *others]) and answer(_COMMANDS):
        return 0
    if first not in _COMMANDS:
        if not ("=" in first or first.startswith("-")):
            return (
                f"error: the command must be one of {list(_COMMANDS)}, got {first!r}{did_you_mean(first, _COMMANDS)}."
            )
        first, others = "train", [first, *others]
    try:
        module, function, _ = _COMMANDS[first]
        return getattr(import_module(module), function)(others)
    except ImportError as error:
        message = explain_missing(error)
        if message is None:
            raise
        return f"error: {message}"
