"""Pruning of trials that fall behind."""

from typing import ClassVar

import optuna
from pytorch_lightning import Callback, LightningModule, Trainer


class Pruning(Callback):
    """Reports the unweighted validation metric of each epoch to the current trial, which the study may prune.

    Args:
        metric: The name of the metric.

    Raises:
        optuna.TrialPruned: In training, when the trial falls behind the others of its study.
    """

    trial: ClassVar[optuna.Trial | None] = None
    """The current trial: a process runs one at a time."""

    def __init__(self, metric: str) -> None:
        self.metric = metric

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports the metric, once an epoch."""
        if self.trial is None or trainer.sanity_checking or self.metric not in trainer.callback_metrics:
            return
        self.trial.report(trainer.callback_metrics[self.metric].item(), trainer.current_epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned(f"pruned after epoch {trainer.current_epoch}: others were better by then")
