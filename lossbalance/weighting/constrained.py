"""Losses that are to stay below a limit."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lossbalance._utils.checks import check_decay, check_number, check_positive, did_you_mean
from lossbalance._utils.warn import warn_user
from lossbalance.weighting.averages import move_average, read_average, start_average
from lossbalance.weighting.base import Observation, Weighting, weighted_sum


class Constrained(Weighting):
    r"""Minimizes the terms without a limit, subject to limits on the others.

    .. math:: \min \sum_{i \text{ free}} L_i \quad \text{such that} \quad L_i \le \ell_i \text{ for the others},

    by dual ascent on the Lagrangian, with one multiplier :math:`w_i` per limit:

    .. math:: T = \sum_{i \text{ free}} L_i + \sum_{i \text{ limited}} w_i (L_i - \ell_i), \qquad
              w_i \leftarrow \operatorname{clip}\big(w_i + \eta \, (a_i - \ell_i), 0, w_{\max}\big),

    where :math:`a_i` is a running average of the loss over steps and ranks, freed of the bias of its start. A
    multiplier grows while its limit is broken and falls while it is kept; at the end it is the price of the limit: how
    much the free terms would gain if the limit were raised by 1.

    A limit that cannot be reached drives its multiplier to ``max_weight``, where it stays, and to a warning that says
    so by name and number, when the scheme is next switched by ``train()`` or ``eval()``. :attr:`distances` tells how
    far from each limit a loss is.

    A term that a step lacks keeps multiplier and average.

    Args:
        terms: Names of the losses, in the order of the row; at least one has a limit.
        limits: :math:`\ell_i` by term, in the unit of its loss, for those terms that have one.
        lr: :math:`\eta`, positive: what a step adds to the multiplier of a loss that is 1 above its limit. It has a
            unit, that of a weight over that of the loss: where a loss starts thousands above its limit and is to end at
            a weight of a thousandth, 1e-8. Too large a rate overshoots while the loss comes down.
        max_weight: :math:`w_{\max}`, positive.
        decay: How much of the running average stays from step to step, in [0, 1).

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        TypeError: If ``limits`` is not a mapping, or a setting is not a number.
        ValueError: If a limit has no term, there is none, or a setting is out of its range.

    Source:
        Rezende and Viola (2018), "Taming VAEs", algorithm 1 (GECO), https://arxiv.org/abs/1810.00597, with additive
        instead of multiplicative steps, as in Gallego-Posada et al. (2022), https://arxiv.org/abs/2208.04425

    Example:
        >>> scheme = Constrained(["recon", "kl"], limits={"recon": 1.0}, lr=0.1)
        >>> total, weights = scheme(torch.tensor([3.0, 5.0]))
        >>> total, weights  # 5 + 0.2 (3 - 1)
        (tensor(5.4000), tensor([0.2000, 1.0000]))
    """

    weight: Tensor
    average: Tensor
    _limit: Tensor
    _limited: Tensor

    def __init__(
        self,
        terms: Iterable[str],
        limits: Mapping[str, float],
        lr: float = 0.01,
        max_weight: float = 100.0,
        decay: float = 0.9,
    ) -> None:
        super().__init__(terms)
        self.limits = _check_limits(limits, self.terms)
        self.lr = check_positive("lr", lr)
        self.max_weight = check_positive("max_weight", max_weight)
        self.decay = check_decay("decay", decay)
        limited = torch.tensor([term in self.limits for term in self.terms])
        self.register_buffer("_limited", limited, persistent=False)
        limit = [self.limits.get(term, 0.0) for term in self.terms]
        self.register_buffer("_limit", torch.tensor(limit), persistent=False)
        self.register_buffer("weight", (~limited).float())  # w; 1 for a free term
        self.register_buffer("average", start_average(len(self.terms)))  # a

    def observe(self, observation: Observation) -> None:
        """Takes a step of ascent on the multipliers of the terms that were seen."""
        seen = observation.seen & self._limited
        move_average(self.average, observation.losses, seen, self.decay)
        excess = read_average(self.average) - self._limit
        weight = torch.where(seen, self.weight + self.lr * excess, self.weight)
        self.weight.copy_(weight.clamp(0, self.max_weight).where(self._limited, 1.0))

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs a limited loss by its multiplier, and a free one by 1."""
        total, weights = weighted_sum(losses, self.weight, present)
        return total - weights.dot(self._limit.to(weights.dtype)), weights

    @property
    def distances(self) -> dict[str, Tensor]:
        """How far the running average of each limited loss is above its limit; nan before the first step."""
        rows = zip(self.terms, (read_average(self.average) - self._limit).unbind(), strict=True)
        return {term: distance for term, distance in rows if term in self.limits}

    def check(self) -> None:
        """Warns of limits that are out of reach; waits for the device."""
        rows = zip(self.terms, self.weight.tolist(), read_average(self.average).tolist(), strict=True)
        for term, weight, average in rows:
            if term in self.limits and weight >= self.max_weight * (1 - 1e-6) and average > self.limits[term]:
                warn_user(
                    f"The limit of {term!r}, {self.limits[term]:g}, is out of reach: its loss stands at {average:g}, "
                    f"and its weight at `max_weight`={self.max_weight:g}. Raise the limit, or `max_weight` if the "
                    "other terms may suffer more.",
                )

    def train(self, mode: bool = True) -> "Constrained":
        """Switches between training and evaluation, and takes the opportunity to :meth:`check`."""
        self.check()
        super().train(mode)
        return self


def _check_limits(limits: object, terms: tuple[str, ...]) -> dict[str, float]:
    if not isinstance(limits, Mapping):
        raise TypeError(f"`limits` must map terms of {list(terms)} to numbers, got {limits!r}.")
    if not limits:
        raise ValueError(f"`limits` must give a limit to at least one term of {list(terms)}, got none: Equal has none.")
    for term in limits:
        if term not in terms:
            raise ValueError(f"`limits` must name terms of {list(terms)}, got {term!r}{did_you_mean(term, terms)}.")
    finite = "a finite number, in the unit of the loss"
    return {term: check_number(f"limits[{term!r}]", limits[term], finite, _is_finite) for term in limits}


def _is_finite(number: float) -> bool:
    return abs(number) < 3.4e38
