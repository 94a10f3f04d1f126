"""Smoothed gate: auxiliary gradients are kept while a running average of their cosine is positive beyond noise."""

import torch
from torch import Tensor

_TINY = 1e-12
_BEGIN = 0.5  # of the weight of a full average: before that, the standard error is not known


class SmoothedGate:
    r"""Keeps an auxiliary gradient while the mean of its cosines with the main one exceeds two standard errors.

    Means are exponential. A gradient that is kept is shortened to the length of the main one, and loses its component
    against it.

    Args:
        decay: Of the means.
        deviations: How many standard errors the mean must exceed.
    """

    def __init__(self, decay: float = 0.98, deviations: float = 2.0) -> None:
        self.decay, self.deviations = decay, deviations
        self._sums: Tensor | None = None  # of the cosines, their squares, the factors, the squared factors

    def __call__(self, gramian: Tensor, cosines: Tensor | None = None) -> Tensor:
        """Returns the multipliers ``[terms]``; the first term is the main one.

        Args:
            gramian: The inner products, ``[terms, terms]``.
            cosines: Those with the main gradient, ``[terms]``; None for those of ``gramian``.
        """
        norms = gramian.diagonal().sqrt().clamp(min=_TINY)
        aligned = gramian[0] / norms / norms[0]
        kept = self._decide(aligned if cosines is None else cosines)
        lengths = kept * (norms[0] / norms).clamp(max=1.0)
        lengths[0] = 1.0
        lengths[0] += (-aligned * lengths * norms / norms[0]).clamp(min=0).sum()
        return lengths

    def _decide(self, cosines: Tensor) -> Tensor:
        """Returns 1 where the mean cosine is positive beyond noise, 0 elsewhere."""
        one = torch.ones_like(cosines)
        factor = 1 - self.decay
        step = torch.stack([factor * cosines, factor * cosines.square(), factor * one, factor**2 * one])
        fading = torch.tensor([self.decay] * 3 + [self.decay**2]).unsqueeze(1)
        self._sums = step if self._sums is None else fading * self._sums + step
        total, squares, weight, squared_weight = self._sums
        mean = total / weight
        error = ((squares / weight - mean.square()).clamp(min=0) * squared_weight / weight.square()).sqrt()
        return ((mean > self.deviations * error) & (weight > _BEGIN)).to(cosines.dtype)
