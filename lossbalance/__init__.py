"""Train one network on several losses: weigh them, balance them, and see what each one does."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossbalance.weighted_loss import Breakdown, WeightedLoss

__all__ = ["Breakdown", "WeightedLoss"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; a mistyped command line should not wait for it.
    if name in __all__:
        from lossbalance import weighted_loss

        return getattr(weighted_loss, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
