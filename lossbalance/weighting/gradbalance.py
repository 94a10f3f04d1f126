"""Gradient balancing (the loss balancer of EnCodec): each term's share of the gradient norm."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lossbalance._utils.checks import check_decay, check_integer, check_mapping, check_positive
from lossbalance._utils.terms import expand
from lossbalance.weighting.averages import (
    average_first,
    limit_average,
    move_average,
    read_average,
    start_average,
    start_first,
)
from lossbalance.weighting.base import Observation, Weighting, weighted_sum


class GradBalance(Weighting):
    r"""Weighs each loss by its ratio over the average norm of its gradient.

    With :math:`n_i` the norm of the gradient of the unweighted loss at its probes, and :math:`a_i` a running average
    of it, freed of the bias of its start, the total is

    .. math:: T = \sum_i w_i L_i, \qquad w_i = \frac{\rho_i}{\sum_j \rho_j} \, \frac{1}{a_i}.

    So the gradient of term i has a norm of about :math:`\rho_i / \sum_j \rho_j`, whatever the unit of its loss. The
    ratios are what is left to choose, and they mean something: each term's share of the gradient norm.

    The norms of the weighted gradients add up to 1, as published, while the plain gradients fade; the weights add up to
    nothing in particular. Under Adam at a learning rate of 1e-3 one run ended 6.0 % below the best fixed weights of a
    sweep on average over fourteen held-out tables, at worst 3.9 % above; with ``WeightedLoss(loss_sum=K)`` 8.4 %
    below, at worst 1.0 % above (``scripts/study.py one_run --tables held_out``). At tuned rates less is left.

    **From tuned weights.** With ``start`` the weights :math:`s_i` that were tuned by hand hold for the first steps of
    each term, and from then on each term keeps the share of the gradient that they gave it. With :math:`m_i` the mean
    norm in those steps,

    .. math:: w_i = s_i \, \frac{m_i}{a_i}.

    **Quiet terms.** A term that is absent, or has a gradient of exactly zero, keeps its average. Until its first norm
    is known, a term weighs 1. A term that starts at its minimum up to rounding, as a KL to a frozen copy does, never
    gets more than ten times its ratio of the gradient, for its first norms are known in the step itself. Later a norm
    is known at the probes one step late, and weights grow by a factor of 1 / decay per step at most: a term that was
    quiet for t steps and comes back exceeds its ratio, in one step, by the factor that its gradient has grown by, at
    most about decay^-t (38,000 after 100 steps at .9); from the next step on by ten at most. With ``shared=`` it never
    does.

    Args:
        terms: Names of the losses, in the order of the row.
        ratios: :math:`\rho_i` by term, positive; equal if None. Only their proportions matter.
        decay: How much of the running average stays from step to step, in [0, 1). The average lags behind a gradient
            that fades: at .99 a term asked to have 1 % ended with 4.7 %, because the others had faded. The paper's code
            has .999.
        start: :math:`s_i` by term, positive, in place of ``ratios``; None for ``ratios``.
        start_steps: How many steps of a term ``start`` holds for, at least 1.

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        TypeError: If a ratio, a weight, ``decay`` or ``start_steps`` is not a number.
        ValueError: If a term has no ratio or a ratio no term, one is not positive, or ``decay`` not in [0, 1); likewise
            for ``start``; or if both are given.

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
    first_norm: Tensor
    steps: Tensor
    _share: Tensor

    def __init__(
        self,
        terms: Iterable[str],
        ratios: Mapping[str, float] | None = None,
        decay: float = 0.9,
        start: Mapping[str, float] | None = None,
        start_steps: int = 100,
    ) -> None:
        super().__init__(terms)
        if ratios is not None and start is not None:
            raise ValueError("`ratios` and `start` both set the share of each term in the gradient: give one of them.")
        self.decay = check_decay("decay", decay)
        self.ratios = _check_row("ratios", ratios, self.terms)
        self.start = None if start is None else _check_row("start", start, self.terms)
        self.start_steps = check_integer("start_steps", start_steps, 1)
        share = torch.tensor(list((self.start or self.ratios).values()))
        self.register_buffer("_share", share if self.start else share / share.sum(), persistent=False)
        self.register_buffer("average", start_average(len(self.terms)))  # a
        if self.start:
            self.register_buffer("first_norm", torch.ones(len(self.terms)))  # m
            self.register_buffer("steps", start_first(len(self.terms)))  # how often each term was seen

    def observe(self, observation: Observation) -> None:
        """Moves the average of each term that was seen towards its norm."""
        norms, seen = observation.norms, observation.seen
        move_average(self.average, norms, seen, self.decay)
        limit_average(self.average, norms, seen, self.decay)
        if self.start:
            latest = torch.where(seen, norms, self.first_norm)
            average_first(self.first_norm, self.steps, latest, seen, self.start_steps)

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs each loss by its share over its average norm."""
        average = read_average(self.average)
        if self.start:
            average = torch.where(self.steps > self.start_steps, average / self.first_norm, 1.0)
        weights = (self._share / average).nan_to_num(1.0, 1.0)
        return weighted_sum(losses, weights, present)


def _check_row(argument: str, numbers: Mapping[str, float] | None, terms: tuple[str, ...]) -> dict[str, float]:
    if numbers is None:
        return dict.fromkeys(terms, 1.0)
    numbers = expand(numbers, terms)
    check_mapping(argument, numbers, terms)
    return {term: check_positive(f"{argument}[{term!r}]", numbers[term]) for term in terms}
