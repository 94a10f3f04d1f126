"""Gradient share: adapts the strength of a penalty to the norm of the data's gradient."""

from collections.abc import Callable

import torch
from torch import Tensor

from lossbalance._utils.deferred import DeferredModule
from lossbalance._utils.precision import keep_precision

_DECAY = 0.9  # of the running average: over about ten steps


class GradientShare(DeferredModule):
    r"""Computes the strength at which a penalty's gradient has a given share of the norm of the data's.

    .. math:: \lambda = \text{share} \cdot \frac{\overline{\|\nabla L\|}}{\|\nabla R\|},

    where the bar is a running average over the steps, corrected for its start. A step whose gradient is not finite
    changes nothing. Where :math:`\nabla L` or :math:`\nabla R` vanishes, so does :math:`\lambda`.

    Args:
        share: The norm of the penalty's gradient over that of the data's; a tensor for many networks at a time.
    """

    strength: Tensor
    average: Tensor
    weight: Tensor

    def __init__(self, share: float | Tensor) -> None:
        super().__init__()
        self.share = share
        shape = torch.as_tensor(share).shape
        self.register_buffer("strength", torch.zeros(shape))
        self.register_buffer("average", torch.zeros(shape))
        self.register_buffer("weight", torch.zeros(shape))  # sum of the coefficients of the average so far: tends to 1

    @torch.no_grad()
    def observe(self, data: Tensor, penalty: Tensor) -> None:
        """Updates the strength by one step.

        Args:
            data: The norm of the data's gradient over the penalized weights, of the shape of ``share``.
            penalty: The norm of the penalty's gradient at strength 1, likewise.
        """
        average = _DECAY * self.average + (1 - _DECAY) * data
        weight = _DECAY * self.weight + (1 - _DECAY)
        strength = torch.where(penalty > 0, self.share * (average / weight) / penalty, 0.0)
        finite = data.isfinite() & penalty.isfinite() & strength.isfinite()
        for name, moved in {"average": average, "weight": weight, "strength": strength}.items():
            state = getattr(self, name)
            state.copy_(torch.where(finite, moved, state))

    def extra_repr(self) -> str:
        """The share."""
        return f"{self.share}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "GradientShare":
        return super()._apply(keep_precision(fn), recurse)
