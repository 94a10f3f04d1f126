"""Rescaling of all weights to a fixed sum of the weighted losses."""

import torch
from torch import Tensor

from lossbalance._utils.checks import check_number
from lossbalance._utils.deferred import DeferredModule
from lossbalance._utils.precision import keep_precision
from lossbalance.weighting.averages import move_average, read_average, start_average
from lossbalance.weighting.base import Observation, Weighting

_DECAY = 0.99


class LossSum(DeferredModule):
    r"""Computes the factor by which the weighted losses, averaged over steps, add up to a given number.

    With :math:`a_i` a running average of the magnitude of a loss, over steps and ranks, freed of the bias of its start,
    and :math:`w_i` the weights that the scheme would give if every term were there,

    .. math:: f = \frac{S}{\sum_i w_i a_i}.

    So a term that a step lacks changes neither its average nor the factor, and the factor is the same on all ranks.

    Args:
        target: S.
        count: The number of terms.
    """

    average: Tensor

    def __init__(self, target: float, count: int) -> None:
        super().__init__()
        self.target = target
        self.register_buffer("average", start_average(count))

    def observe(self, observation: Observation) -> None:
        """Moves the averages of the terms that were seen."""
        move_average(self.average, observation.losses.abs(), observation.seen, _DECAY)

    @torch.no_grad()
    def forward(self, weighting: Weighting, unseen: float = 0.0) -> Tensor:
        """Returns the factor ``[]``; 1 as long as nothing was seen.

        Args:
            weighting: The scheme whose weights are rescaled, as they are in this step.
            unseen: What stands in for the averages as long as nothing was seen; 0 for nothing.
        """
        average = read_average(self.average)
        average = average.where(~average.isnan().all(), unseen).nan_to_num(0.0) if unseen else average.nan_to_num(0.0)
        _, weights = weighting.weigh(average, torch.ones_like(average, dtype=torch.bool))
        return (self.target / weights.dot(average)).nan_to_num(1.0, 1.0)

    def extra_repr(self) -> str:
        """The target."""
        return f"{self.target:g}"

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        return super()._apply(keep_precision(fn), recurse)


def check_sum(argument: str, value: object) -> float | None:
    """Returns what weights or losses are to add up to, or None.

    Raises:
        TypeError: If it is neither None nor a number.
        ValueError: If it is not positive, or not finite.
    """
    if value is None:
        return None
    return check_number(argument, value, "a positive, finite number or None", lambda number: 0 < number < 3.4e38)
