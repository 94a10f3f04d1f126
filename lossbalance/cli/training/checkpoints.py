"""Checkpoints of a run: the best and the last."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any
from weakref import proxy

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from lossbalance._utils.checks import check_choice
from lossbalance.callbacks import LossMonitor
from lossbalance.cli.config.objective import check_logged
from lossbalance.criterion.weighted_loss import WeightedLoss


class BestAndLast(ModelCheckpoint):
    """Keeps ``best.ckpt``, by a metric, and ``last.ckpt``, of the last whole epoch; before the first, of the start.

    A run that is interrupted at any moment resumes from a state that an uninterrupted one passes through. The metrics
    and weights of that state are saved too, for a run that is resumed after its last epoch.

    Args:
        dirpath: The folder.
        monitor: The metric.
        direction: ``maximize`` or ``minimize``.

    Attributes:
        criterion: The criterion whose weights are saved, if any.
        weights: The weights at the end of the last epoch, by term.

    Raises:
        ValueError: If the direction is another word.
    """

    def __init__(self, dirpath: str, monitor: str, direction: str = "maximize") -> None:
        mode = check_choice("direction", direction, ["maximize", "minimize"])[:3]
        # `save_last` would skip epochs that are not the best.
        super().__init__(dirpath, "best", monitor=monitor, mode=mode, save_last=False, enable_version_counter=False)
        self.last = Path(dirpath) / "last.ckpt"
        self.criterion: WeightedLoss | None = None
        self.weights: dict[str, float] = {}
        self._metrics: dict[str, float] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores the metrics of the checkpoint."""
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self._metrics.items()})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the start of training.

        Raises:
            ValueError: If no optimizer would train the module.
        """
        mock = "_MockOptimizer"  # what Lightning trains with where there is none
        if pl_module.automatic_optimization and all(type(each).__name__ == mock for each in trainer.optimizers):
            raise ValueError(
                f"`configure_optimizers` of {type(pl_module).__name__} must return an optimizer, got none: "
                "nothing would be trained."
            )
        super().on_train_start(trainer, pl_module)
        self._save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the epoch."""
        self._metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        if self.criterion is not None:
            self.weights = {name: value.item() for name, value in self.criterion.weights.items()}
        super().on_train_epoch_end(trainer, pl_module)
        self._save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks that the metric was logged, before Lightning does."""
        if not trainer.sanity_checking and self.monitor is not None:
            check_logged(self.monitor, trainer.callback_metrics, why_unlogged(trainer, self.monitor))
        super().on_validation_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Lightning's state, the metrics and the weights."""
        return {**super().state_dict(), "metrics": self._metrics, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the metrics and the weights."""
        self._metrics, self.weights = state_dict.get("metrics", {}), state_dict.get("weights", {})
        super().load_state_dict(state_dict)

    def _save_last(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        best = Path(self.best_model_path)
        if self._last_global_step_saved != trainer.global_step or not best.is_file():
            self._save(trainer, self.last)
        elif trainer.is_global_zero:  # a copy of the best one is faster
            part = self.last.with_suffix(".part")
            shutil.copyfile(best, part)
            os.replace(part, self.last)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        """Lightning's hook: saves the best epoch so far."""
        self._save(trainer, Path(filepath))
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath
        for logger in trainer.loggers if trainer.is_global_zero else ():
            logger.after_save_checkpoint(proxy(self))

    def _save(self, trainer: Trainer, path: Path) -> None:
        """Writes atomically: a run that is killed leaves the earlier checkpoint."""
        part = path.with_suffix(".part")
        try:
            trainer.save_checkpoint(part)
        except RuntimeError as error:  # what torch makes of a full disk
            if "PytorchStreamWriter" not in str(error) and "unexpected pos" not in str(error):
                raise
            raise OSError(errno.ENOSPC, "No space left on device", str(path)) from error
        if trainer.is_global_zero:
            os.replace(part, path)
        trainer.strategy.barrier()  # other ranks check that it exists


def why_unlogged(trainer: Trainer, name: str) -> str:
    """Returns why a validation metric is missing, as far as that can be seen; empty where it cannot."""
    if not trainer.num_training_batches:
        return "There is no training batch (`drop_last=True` with fewer samples than a batch?)"
    steps = trainer.max_steps
    if steps != -1 and trainer.global_step >= steps and not trainer.fit_loop.epoch_loop.val_loop._has_run:
        return f"`trainer.max_steps`={steps} ends the training before its first validation"
    if not name.startswith("val/loss/"):
        return ""
    if not any(isinstance(callback, LossMonitor) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        return "`callbacks` have no loss_monitor, which logs val/loss/<term>"
    if any(metric.startswith("val/loss/") for metric in trainer.callback_metrics):
        return ""
    return "The validation has no finite loss (`validation_step` must return {'losses': ...}, not all of them nan)"
