"""Lightning callbacks: they work in ``pytorch_lightning.Trainer`` and in ``lightning.pytorch.Trainer``."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossbalance.callbacks.alpha_schedule import AlphaSchedule
    from lossbalance.callbacks.balance_losses import BalanceLosses
    from lossbalance.callbacks.loss_monitor import LossMonitor
    from lossbalance.callbacks.schedule import Schedule
    from lossbalance.callbacks.weight_schedule import WeightSchedule

_MODULES = {
    "AlphaSchedule": "alpha_schedule",
    "BalanceLosses": "balance_losses",
    "LossMonitor": "loss_monitor",
    "Schedule": "schedule",
    "WeightSchedule": "weight_schedule",
}
__all__ = ["AlphaSchedule", "BalanceLosses", "LossMonitor", "Schedule", "WeightSchedule"]


def __getattr__(name: str) -> Any:
    # Lightning takes a second to import; statistics and keys of the log do without it.
    if name in _MODULES:
        return getattr(import_module(f"lossbalance.callbacks.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
