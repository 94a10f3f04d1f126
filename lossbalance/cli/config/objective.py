"""The objective of a run, and its mandatory settings."""

from collections.abc import Iterable, Iterator
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from lossbalance._utils.checks import did_you_mean


def check_given(config: DictConfig) -> None:
    """Checks that every mandatory setting is given.

    Raises:
        ValueError: If something is; the message names all of it.
    """
    missing = list(_missing(OmegaConf.to_container(config)))
    if missing:
        overrides = " ".join(f"{key}=..." for key in missing)
        raise ValueError(f"{missing} must be given: {overrides}; `task={config.task.name} --help` describes each.")


def set_direction(config: DictConfig) -> None:
    """Infers from the objective's name whether it is minimized or maximized, where that is not set."""
    from lossbalance.sweeps.comparison import lower_is_better  # imports pandas

    objective = config.task.objective
    if objective.direction is None:
        objective.direction = "minimize" if lower_is_better(objective.name) else "maximize"


def check_logged(name: str, metrics: Iterable[str], reason: str = "") -> None:
    """Checks that the objective is among the metrics of a validation.

    Args:
        name: The objective.
        metrics: Those that are there.
        reason: Why there are none, if that is known.

    Raises:
        ValueError: If it is not; the message has the reason, or those that are there.
    """
    known = sorted(metrics)
    if name not in known and reason:
        raise ValueError(f"{reason}, so that there is no {name!r}, the `task.objective.name`.")
    if name not in known:
        raise ValueError(
            f"`task.objective.name` must be a metric that the validation logs, got {name!r}"
            f"{did_you_mean(name, known)}: it logs {known}. Log it in "
            "`validation_step`, or return {'losses': ...} there for val/loss/<term>."
        )


def _missing(tree: Any, prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _missing(value, f"{prefix}{key}.")
        elif value == MISSING:
            yield f"{prefix}{key}"
