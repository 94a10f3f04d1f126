"""Lightning callbacks: they work in ``pytorch_lightning.Trainer`` and in ``lightning.pytorch.Trainer``."""

from lossbalance.callbacks.alpha_schedule import AlphaSchedule
from lossbalance.callbacks.balance_losses import BalanceLosses
from lossbalance.callbacks.loss_monitor import LossMonitor
from lossbalance.callbacks.schedule import Schedule
from lossbalance.callbacks.weight_schedule import WeightSchedule

__all__ = ["AlphaSchedule", "BalanceLosses", "LossMonitor", "Schedule", "WeightSchedule"]
