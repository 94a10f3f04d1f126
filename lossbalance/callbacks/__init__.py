"""Lightning callbacks: they work in ``pytorch_lightning.Trainer`` and in ``lightning.pytorch.Trainer``."""

from lossbalance.callbacks.alpha_schedule import AlphaSchedule
from lossbalance.callbacks.balance_losses import BalanceLosses
from lossbalance.callbacks.loss_monitor import LossMonitor

__all__ = ["AlphaSchedule", "BalanceLosses", "LossMonitor"]
