"""The checkpoints that a run leaves."""

import os
import shutil
from pathlib import Path

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from lossbalance._utils.checks import check_word


class BestAndLast(ModelCheckpoint):
    """Keeps ``best.ckpt``, by a metric, and ``last.ckpt``, of the last whole epoch; before the first, of the start.

    So a run that is interrupted at any moment goes on from a point that an uninterrupted one would have passed.

    Args:
        dirpath: The folder.
        monitor: The metric.
        direction: ``maximize`` or ``minimize``.

    Raises:
        ValueError: If the direction is another word.
    """

    def __init__(self, dirpath: str, monitor: str, direction: str = "maximize") -> None:
        mode = check_word("direction", direction, ["maximize", "minimize"])[:3]
        # `save_last` would skip epochs that are not the best.
        super().__init__(dirpath, "best", monitor=monitor, mode=mode, save_last=False, enable_version_counter=False)
        self.last = Path(dirpath) / "last.ckpt"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the start of training."""
        super().on_train_start(trainer, pl_module)
        self._save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the epoch."""
        super().on_train_epoch_end(trainer, pl_module)
        self._save_last(trainer)

    def _save_last(self, trainer: Trainer) -> None:
        best = Path(self.best_model_path)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if self._last_global_step_saved != trainer.global_step or not best.is_file():
            trainer.save_checkpoint(self.last)
        elif trainer.is_global_zero:  # it is the best: a copy takes less time
            partial = self.last.with_suffix(".part")
            shutil.copyfile(best, partial)
            os.replace(partial, self.last)
