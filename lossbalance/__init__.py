"""Loss weighting for PyTorch: train one network on several losses without tuning their weights by hand."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossbalance.criterion import Breakdown, WeightedLoss, make_criterion

_FOLDERS = ("callbacks", "conflict", "penalties", "weighting")
_CRITERION = ("Breakdown", "WeightedLoss", "make_criterion")

__version__ = "0.2.0"
__all__ = [
    "Breakdown",
    "WeightedLoss",
    "__version__",
    "callbacks",
    "conflict",
    "make_criterion",
    "penalties",
    "weighting",
]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; a mistyped command line should not wait for it.
    if name in _CRITERION:
        return getattr(import_module("lossbalance.criterion"), name)
    if name in _FOLDERS:
        return import_module(f"lossbalance.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
