"""Convex combination of the first loss and the mean of the others, by one number alpha."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lossbalance._utils.checks import check_number
from lossbalance.weighting.base import Weighting, weighted_sum


class Alpha(Weighting):
    r"""Gives the first loss alpha and shares the rest of 1 among the others.

    .. math:: T = \alpha L_1 + \frac{1 - \alpha}{K - 1} \sum_{i > 1} L_i.

    Try the two ends first: at ``alpha=0`` and ``alpha=1`` one side trains alone, with a gradient of exactly zero
    from the other, which shows whether each can be minimized at all. A regularized loss
    :math:`L + \lambda R` is the same form up to a constant, with :math:`\alpha = 1 / (1 + \lambda)`.

    Args:
        terms: Names of the losses, in the order of the row; at least two. The first gets alpha.
        alpha: :math:`\alpha`, from 0 to 1.

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        TypeError: If ``alpha`` is not a number.
        ValueError: If ``alpha`` is not in [0, 1], or there are fewer than two terms.

    Example:
        >>> total, weights = Alpha(["aux", "main"], alpha=0.25)(torch.tensor([2.0, 4.0]))
        >>> total.item(), weights.tolist()
        (3.5, [0.25, 0.75])
    """

    first_term_leads = True
    alpha: Tensor
    _rest: Tensor
    _slope: Tensor

    def __init__(self, terms: Iterable[str], alpha: float) -> None:
        super().__init__(terms)
        if len(self.terms) < 2:
            raise ValueError(f"`terms` must be at least two for alpha to choose between, got {list(self.terms)}.")
        self.register_buffer("alpha", torch.tensor(_check_alpha(alpha)))
        rest = [0.0] + [1.0 / (len(self.terms) - 1)] * (len(self.terms) - 1)
        self.register_buffer("_rest", torch.tensor(rest), persistent=False)
        slope = [1.0] + [-share for share in rest[1:]]
        self.register_buffer("_slope", torch.tensor(slope), persistent=False)

    def set_alpha(self, alpha: float) -> None:
        """Moves alpha, in place, from the next step on; raises as the constructor does."""
        self.alpha.fill_(_check_alpha(alpha))

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs the first loss by alpha and the others by their part of 1 - alpha."""
        weights = torch.addcmul(self._rest, self.alpha, self._slope)  # exact at both ends
        return weighted_sum(losses, weights, present)


def _check_alpha(alpha: object) -> float:
    ends = "0 leaves the first term out, 1 all the others"
    return check_number("alpha", alpha, "a number in [0, 1]", lambda number: 0 <= number <= 1, ends)
