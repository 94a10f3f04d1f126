"""Train one network on several losses: weigh them, balance them, and see what each one does."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossbalance.breakdown import Breakdown
    from lossbalance.weighted_loss import WeightedLoss

_FOLDERS = ("callbacks", "conflict", "gradients", "penalties", "weighting")
_HOMES = {"Breakdown": "breakdown", "WeightedLoss": "weighted_loss"}

__all__ = ["Breakdown", "WeightedLoss", "callbacks", "conflict", "gradients", "penalties", "weighting"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; a mistyped command line should not wait for it.
    if name in _HOMES:
        return getattr(import_module(f"lossbalance.{_HOMES[name]}"), name)
    if name in _FOLDERS:
        return import_module(f"lossbalance.{name}")
    if name == "__version__":
        return version("lossbalance")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
