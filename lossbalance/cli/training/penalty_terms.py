"""Penalties as terms of any LightningModule."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import pytorch_lightning as pl

from lossbalance.cli.training.libraries import defines
from lossbalance.penalties import Penalty

_STEPS = ("training_step", "validation_step", "test_step")


def add_penalty_terms(module: pl.LightningModule, penalties: Mapping[str, Penalty]) -> None:
    """Adds the penalties on a module's parameters to the ``losses`` that its steps return."""
    for name in _STEPS:
        if defines(module, name):
            setattr(module, name, _add(getattr(module, name), module, penalties))


def _add(step: Callable[..., Any], module: pl.LightningModule, penalties: Mapping[str, Penalty]) -> Callable[..., Any]:
    @wraps(step)
    def with_penalties(*args: Any, **kwargs: Any) -> Any:
        outputs = step(*args, **kwargs)
        if not isinstance(outputs, Mapping) or not isinstance(outputs.get("losses"), Mapping):
            return outputs
        values = {name: penalty(module) for name, penalty in penalties.items()}
        return {**outputs, "losses": {**outputs["losses"], **values}}

    return with_penalties
