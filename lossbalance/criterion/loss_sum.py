"""Rescaling of all weights to a fixed sum of the weighted losses."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from lossbalance._utils.checks import check_number
from lossbalance._utils.deferred import DeferredModule
from lossbalance._utils.precision import keep_precision
from lossbalance._utils.warn import RefusedLossWarning, warn_user
from lossbalance.weighting.averages import move_average, read_average, start_average
from lossbalance.weighting.base import Observation, Weighting

_DECAY = 0.99


class LossSum(DeferredModule):
    r"""Computes the factor by which the weighted losses, averaged over steps, add up to a given number.

    With :math:`a_i` a running average of a loss, over steps and ranks, freed of the bias of its start,
    and :math:`w_i` the weights that the scheme would give if every term were there,

    .. math:: f = \frac{S}{\sum_i w_i a_i}.

    So a term that a step lacks changes neither its average nor the factor, and the factor is the same on all ranks.

    Args:
        target: S.
        terms: Names of the losses, in the order of the row.

    Raises:
        ValueError: In training, if a loss is negative: a policy loss or that of a critic, which passes 0, has no scale.
            The host looks in the first step, and where modes are switched.
    """

    average: Tensor
    lowest: Tensor

    def __init__(self, target: float, terms: Sequence[str]) -> None:
        super().__init__()
        self.target, self.terms = target, tuple(terms)
        self.register_buffer("average", start_average(len(self.terms)))
        self.register_buffer("lowest", torch.full((len(self.terms),), torch.inf), persistent=False)
        self._is_checked = False

    def observe(self, observation: Observation) -> None:
        """Moves the averages of the terms that were seen; a negative loss counts as not seen."""
        losses = observation.losses
        torch.minimum(self.lowest, losses.masked_fill(~observation.seen, torch.inf), out=self.lowest)
        move_average(self.average, losses, observation.seen & (losses >= 0), _DECAY)
        if not (self._is_checked or torch.compiler.is_compiling()):
            self.check()

    def check(self) -> None:
        """Checks the losses seen so far, once; synchronizes with the device.

        Raises:
            ValueError: If one was negative.
        """
        lowest = dict(zip(self.terms, self.lowest.tolist(), strict=True))
        self._is_checked = min(lowest.values()) < float("inf")
        negative = {term: loss for term, loss in lowest.items() if loss < 0}
        if negative:
            self.lowest.fill_(torch.inf)
            raise ValueError(
                f"`losses` must be 0 or more for `loss_sum`, got {negative}: a loss that passes 0 has no scale that "
                "others could be brought to. Give `weight_sum` or none of both, or such a term by a weight of its own."
            )

    def train(self, mode: bool = True) -> Self:
        """Switches between training and evaluation, and warns of losses that :meth:`check` refuses."""
        super().train(mode)
        if not self.lowest.is_meta:
            try:
                self.check()
            except ValueError as error:
                warn_user(str(error), RefusedLossWarning)
        return self

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
