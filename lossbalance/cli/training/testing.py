"""Test of a trained network: the last or the best checkpoint."""

import logging
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from lossbalance._utils.checks import check_choice
from lossbalance.cli.training.build import Built
from lossbalance.cli.training.checkpoints import BestAndLast
from lossbalance.cli.training.libraries import defines

log = logging.getLogger(__name__)


def check_test(choice: bool | str, callbacks: Iterable[pl.Callback]) -> str | None:
    """Validates ``test``: the ``last`` network is tested, the ``best``, or none.

    Args:
        choice: ``last``, ``best`` or ``false``; true for the last.
        callbacks: Those of the training; one must save the best checkpoint.

    Raises:
        ValueError: If it is another value, or no callback saves the best checkpoint.
    """
    if isinstance(choice, bool):
        return "last" if choice else None
    check_choice("test", choice, ["last", "best", "false"])
    if choice == "best" and _find_checkpoints(callbacks) is None:
        raise ValueError("`test` must be last or false where no callback keeps the best checkpoint, got 'best'.")
    return choice


def test_network(choice: str | None, trainer: Any, built: Built, record: dict[str, Any]) -> None:
    """Tests the chosen network, and records the metrics."""
    if choice is None:
        return
    try:
        check_has_test(built)
    except ValueError as error:
        if HydraConfig.get().mode == RunMode.RUN:  # a run of a sweep prints one line
            log.warning(str(error))
        return
    checkpoints, path = _find_checkpoints(trainer.callbacks), None
    record["tested"] = "the last epoch"
    if choice == "best" and checkpoints is not None and checkpoints.best_model_path:  # fast_dev_run saves none
        path = checkpoints.best_model_path
        record["tested"] = f"the best checkpoint ({checkpoints.monitor} {checkpoints.best_model_score:.4g})"
    trainer.test(built.module, datamodule=built.data, ckpt_path=path, verbose=False)
    record["metrics"] |= {name: value.item() for name, value in trainer.callback_metrics.items()}


def _find_checkpoints(callbacks: Iterable[pl.Callback]) -> BestAndLast | None:
    return next((callback for callback in callbacks if isinstance(callback, BestAndLast)), None)


def check_has_test(built: Built) -> None:
    """Checks that the module has a test step and the data a test set.

    Raises:
        ValueError: If one is missing.
    """
    for owner, method in ((built.module, "test_step"), (built.data, "test_dataloader")):
        if not defines(owner, method):
            raise ValueError(f"There is no test: {type(owner).__name__} has no `{method}`.")
