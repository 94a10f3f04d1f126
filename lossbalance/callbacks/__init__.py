"""Lightning callbacks: they work in ``pytorch_lightning.Trainer`` and in ``lightning.pytorch.Trainer``."""

from lossbalance.callbacks.loss_monitor import LossMonitor

__all__ = ["LossMonitor"]
