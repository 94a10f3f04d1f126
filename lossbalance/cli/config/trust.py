"""Trust in the code that a run directory names by ``_target_``."""

import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from typing import Any

from omegaconf import DictConfig, OmegaConf

_OURS = ("lossbalance.", "torch.optim.", "pytorch_lightning.Trainer", "lightning.pytorch.Trainer")


def check_trusted(config: DictConfig, trust: bool) -> None:
    """Refuses code that a run's configuration names, unless it is installed or trusted.

    Loading a checkpoint runs no code, but building the module does. Classes of this library and of installed packages
    are built; functions, the standard library and files beside the run are refused.

    Args:
        config: The settings of the run.
        trust: Whether all code is trusted.

    Raises:
        ValueError: If some code is not trusted; the message names it.
    """
    if trust:
        return
    installed = packages_distributions()
    for key, name in _targets(OmegaConf.to_container(config, resolve=False)):
        package = name.partition(".")[0]
        is_class = name.rpartition(".")[2][:1].isupper()
        known = name.startswith(_OURS) or (package in installed and package not in sys.stdlib_module_names)
        if not (known and is_class):
            raise ValueError(
                f"`{key}` must be a class of an installed package, got {name!r}, which would run other code: add "
                "trust=true if you trust whoever made the run."
            )


def _targets(tree: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        if key == "_target_":
            yield f"{prefix}_target_", str(value)
        yield from _targets(value, f"{prefix}{key}.")
