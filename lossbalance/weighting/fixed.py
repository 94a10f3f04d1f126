"""Fixed weights, chosen by hand."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lossbalance._utils.checks import check_mapping, check_not_negative
from lossbalance._utils.terms import expand
from lossbalance.weighting.base import Weighting, weighted_sum


class Fixed(Weighting):
    r"""Adds the losses up with constant weights: :math:`T = \sum_i w_i L_i`.

    Args:
        terms: Names of the losses, in the order of the row.
        weights: The weight of each term by name, finite and not negative. To maximize a term, negate its loss.

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        TypeError: If ``weights`` is not a mapping, or a weight is not a number.
        ValueError: If a term has no weight, a weight has no term, or one is negative or not finite.

    Example:
        >>> total, weights = Fixed(["aux", "main"], weights={"aux": 0.5, "main": 1.0})(torch.tensor([2.0, 4.0]))
        >>> total.item(), weights.tolist()
        (5.0, [0.5, 1.0])
    """

    weight: Tensor

    def __init__(self, terms: Iterable[str], weights: Mapping[str, float]) -> None:
        super().__init__(terms)
        weights = expand(weights, self.terms)
        check_mapping("weights", weights, self.terms)
        cure = "to maximize a term, negate its loss"
        self.weights = {term: check_not_negative(f"weights[{term!r}]", weights[term], cure) for term in self.terms}
        self.register_buffer("weight", torch.tensor(list(self.weights.values())))

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs each loss by its number."""
        return weighted_sum(losses, self.weight, present)
