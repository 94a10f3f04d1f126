"""Gradient balancing (the loss balancer of EnCodec): each term's share of the gradient norm."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lossbalance._utils.checks import check_decay, check_mapping, check_positive
from lossbalance.weighting.averages import move_average, read_average, start_average
from lossbalance.weighting.base import Observation, Weighting, weighted_sum


class GradBalance(Weighting):
    r"""Weighs each loss by its ratio over the average norm of its gradient.

    With :math:`n_i` the norm of the gradient of the unweighted loss at its probes, and :math:`a_i` a running average
    of it, freed of the bias of its start, the total is

    .. math:: T = \sum_i w_i L_i, \qquad w_i = \frac{\rho_i}{\sum_j \rho_j} \, \frac{1}{a_i}.

    So the gradient of term i has a norm of about :math:`\rho_i / \sum_j \rho_j`, whatever the unit of its loss. The
    ratios are what is left to choose, and they mean something: each term's share of the gradient norm.

    The norms of the weighted gradients add up to 1, as published, while the plain gradients fade; the weights add up to
    nothing in particular. One run ended 6.0 % below the best fixed weights of a sweep on average over fourteen
    held-out tables, at worst 3.9 % above; with ``WeightedLoss(loss_sum=K)`` 8.4 % below, at worst 1.0 % above
    (``scripts/study.py one_run --tables held_out``).

    A term that is absent, or has a gradient of exactly zero, keeps its average. Until its first norm is known, a term
    weighs 1.

    Args:
        terms: Names of the losses, in the order of the row.
        ratios: :math:`\rho_i` by term, positive; equal if None. Only their proportions matter.
        decay: How much of the running average stays from step to step, in [0, 1). The average lags behind a gradient
            that fades: at .99 a term asked to have 1 % ended with 4.7 %, because the others had faded. The paper's code
            has .999.

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        TypeError: If a ratio or ``decay`` is not a number.
        ValueError: If a term has no ratio or a ratio no term, one is not positive, or ``decay`` not in [0, 1).

    Source:
        Defossez, Copet, Synnaeve and Adi (2022), "High Fidelity Neural Audio Compression", section 3.4
        (balancer), with a reference norm of 1, https://arxiv.org/abs/2210.13438

    Example:
        >>> scheme = GradBalance(["aux", "main"], ratios={"aux": 1, "main": 3})
        >>> total, weights = scheme(torch.tensor([1.0, 1.0]), norms=torch.tensor([1.0, 1.0]))
        >>> weights.tolist()
        [0.25, 0.75]
    """

    uses_gradients = True
    average: Tensor
    _share: Tensor

    def __init__(self, terms: Iterable[str], ratios: Mapping[str, float] | None = None, decay: float = 0.9) -> None:
        super().__init__(terms)
        self.decay = check_decay("decay", decay)
        self.ratios = _check_ratios(ratios, self.terms)
        share = torch.tensor(list(self.ratios.values()))
        self.register_buffer("_share", share / share.sum(), persistent=False)
        self.register_buffer("average", start_average(len(self.terms)))  # a

    def observe(self, observation: Observation) -> None:
        """Moves the average of each term that was seen towards its norm."""
        move_average(self.average, observation.norms, observation.seen, self.decay)

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs each loss by its share over its average norm."""
        weights = (self._share / read_average(self.average)).nan_to_num(1.0, 1.0)
        return weighted_sum(losses, weights, present)


def _check_ratios(ratios: Mapping[str, float] | None, terms: tuple[str, ...]) -> dict[str, float]:
    if ratios is None:
        return dict.fromkeys(terms, 1.0)
    check_mapping("ratios", ratios, terms)
    return {term: check_positive(f"ratios[{term!r}]", ratios[term]) for term in terms}
