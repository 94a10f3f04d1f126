"""Progress bar with the loss and weight of each term."""

import time
from types import ModuleType
from typing import Any

from lossbalance.criterion.weighted_loss import WeightedLoss

_SECONDS = 0.5  # between two readings: each synchronizes with the device
_TERMS = 6  # at most, in one line


def make_progress_bar(library: ModuleType, criterion: WeightedLoss, objective: str) -> Any:
    """Returns a progress bar with the loss and the weight of each term, and the objective.

    Args:
        library: ``pytorch_lightning`` or ``lightning.pytorch``.
        criterion: The criterion of the terms.
        objective: The name of the objective.
    """

    class TermProgressBar(library.callbacks.RichProgressBar):  # type: ignore[name-defined]
        shown: dict[str, str] | None = None
        read_at = 0.0

        def get_metrics(self, trainer: Any, pl_module: Any) -> dict[str, Any]:
            now = time.monotonic()
            if self.shown is None or now - self.read_at > _SECONDS:
                self.shown, self.read_at = describe(criterion, objective, trainer.callback_metrics), now
            return dict(self.shown)

    return TermProgressBar(leave=False)


def describe(criterion: WeightedLoss, objective: str, metrics: dict[str, Any]) -> dict[str, str]:
    """Returns ``loss x weight`` of each term of the last step, and the objective, formatted for one line."""
    if criterion.last_step() is None:
        return {}
    last = criterion.last
    shown = {term: f"{last.losses[term]:.3g} x {last.weights[term]:.3g}" for term in criterion.terms[:_TERMS]}
    if objective in metrics:
        shown[objective] = f"{metrics[objective]:.3g}"
    return shown
