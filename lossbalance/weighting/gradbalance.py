"""Every loss gets its ratio of the gradient."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lossbalance._utils.checks import check_mapping, check_number
from lossbalance.weighting.base import Observation, Weighting, sum_to_count, weighted_sum


class GradBalance(Weighting):
    r"""Weighs each loss by its ratio over the average norm of its gradient.

    With :math:`n_i` the norm of the gradient of the unweighted loss at its probes, and :math:`a_i` a running average
    of :math:`n_i / \sum_j n_j`, freed of the bias of its start, the total is

    .. math:: T = \sum_i w_i L_i, \qquad w_i \propto \frac{\rho_i}{a_i}, \qquad \sum_i w_i = K.

    So the gradient of term i has :math:`\rho_i / \sum_j \rho_j` of the sum of the norms, whatever the units of the
    losses. The ratios are what is left to choose, and they mean something: how much each term may say.

    A term that is absent, or has a gradient of exactly zero, keeps its average; the shares of the others are then
    taken of the part of the averages that is theirs.

    Args:
        terms: Names of the losses, in the order of the row.
        ratios: :math:`\rho_i` by term, positive; equal if None. Only their proportions matter.
        decay: How much of the running average stays from step to step, in [0, 1).

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        TypeError: If a ratio or ``decay`` is not a number.
        ValueError: If a term has no ratio or a ratio no term, one is not positive, or ``decay`` not in [0, 1).

    Source:
        Defossez, Copet, Synnaeve and Adi (2022), "High Fidelity Neural Audio Compression", section 3.4 (balancer),
        https://arxiv.org/abs/2210.13438

    Example:
        >>> scheme = GradBalance(["aux", "main"], ratios={"aux": 1, "main": 3})
        >>> total, weights = scheme(torch.tensor([1.0, 1.0]), norms=torch.tensor([1.0, 1.0]))
        >>> weights.tolist()
        [0.5, 1.5]
    """

    uses_gradients = True
    ratio: Tensor
    average: Tensor
    evidence: Tensor

    def __init__(self, terms: Iterable[str], ratios: Mapping[str, float] | None = None, decay: float = 0.99) -> None:
        super().__init__(terms)
        self.decay = check_number("decay", decay, "a number in [0, 1)", lambda number: 0 <= number < 1)
        self.register_buffer("ratio", torch.tensor(_check_ratios(ratios, self.terms)), persistent=False)
        self.register_buffer("average", torch.zeros(len(self.terms)))  # a
        start = torch.finfo(torch.float32).tiny  # in place of 0, so that the first share is taken whole
        self.register_buffer("evidence", torch.full((len(self.terms),), start))  # 1 - decay^(times seen)

    def observe(self, observation: Observation) -> None:
        """Moves the average of each term that was seen towards its share of the gradient."""
        norms = observation.norms.to(self.average.dtype)
        seen, known = norms.sign(), self.average.sign()  # 1 or 0
        part = self.average.dot(seen)  # what the known terms had of the gradient, and have between them now
        scale = torch.where(part.bool(), part / norms.dot(known), norms.sum().reciprocal())
        gain = seen * (1 - self.decay)
        self.evidence.lerp_(seen, gain)
        self.average.lerp_((norms * scale).nan_to_num(), gain / self.evidence)

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs each loss by its ratio over its average; by 1 as long as it is unknown."""
        weights = (self.ratio / self.average).nan_to_num(posinf=0.0)  # w, up to a factor; 0 where unknown
        return weighted_sum(losses, sum_to_count(weights), present)


def _check_ratios(ratios: Mapping[str, float] | None, terms: tuple[str, ...]) -> list[float]:
    if ratios is None:
        return [1.0] * len(terms)
    check_mapping("ratios", ratios, terms)
    kind = "a positive, finite number"
    return [
        check_number(f"ratios[{term!r}]", ratios[term], kind, lambda ratio: 0 < ratio < float("inf")) for term in terms
    ]
