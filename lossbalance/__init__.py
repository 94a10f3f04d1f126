"""Train one network on several losses: weigh them, balance them, and see what each one does."""

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossbalance.breakdown import Breakdown
    from lossbalance.criterion import make_criterion
    from lossbalance.weighted_loss import WeightedLoss

_FOLDERS = ("callbacks", "conflict", "gradients", "penalties", "weighting")
_HOMES = {"Breakdown": "breakdown", "WeightedLoss": "weighted_loss", "make_criterion": "criterion"}

__version__ = "0.1.0"
__all__ = [
    "Breakdown",
    "WeightedLoss",
    "__version__",
    "callbacks",
    "conflict",
    "gradients",
    "make_criterion",
    "penalties",
    "weighting",
]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; a mistyped command line should not wait for it.
    if name in _HOMES:
        return getattr(import_module(f"lossbalance.{_HOMES[name]}"), name)
    if name in _FOLDERS:
        return import_module(f"lossbalance.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def _find_conf() -> None:
    """Makes ``lossbalance.conf`` of the folder beside the package, where this is a checkout: a wheel has it inside."""
    inside, beside = (folder / "conf" / "__init__.py" for folder in Path(__file__).parents[:2])
    if beside.is_file() and not inside.is_file():
        spec = spec_from_file_location("lossbalance.conf", beside, submodule_search_locations=[str(beside.parent)])
        if spec is not None:
            sys.modules.setdefault(spec.name, module_from_spec(spec))


_find_conf()
