"""The checkpoints that a run leaves."""

from pathlib import Path

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from lossbalance.checks import check_word


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
        super().__init__(dirpath, "best", monitor=monitor, mode=mode, save_last=True, enable_version_counter=False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the start of training."""
        super().on_train_start(trainer, pl_module)
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(Path(str(self.dirpath)) / f"{self.CHECKPOINT_NAME_LAST}.ckpt")
