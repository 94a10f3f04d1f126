"""Constrained optimization (GECO): dual ascent on Lagrange multipliers keeps losses below limits."""

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
        lr: :math:`\eta`, positive: what a step adds to the multiplier of a loss that is 1 above its limit, in the unit
            of a weight over that of the loss. None is :math:`0.01 / \ell_i^2` for each limit, which suits any unit: a
            loss of twice its limit then adds 0.01 to :math:`w_i \ell_i`, what a loss at the limit contributes, beside
            free terms about 1. Too large a rate overshoots while the loss comes down.
        max_weight: :math:`w_{\max}`, positive. None is :math:`100 / |\ell_i|`, a contribution of 100 at the limit. In
            both defaults 1 takes the place of a limit that is 0.
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
    _lr: Tensor
    _range: Tensor

    def __init__(
        self,
        terms: Iterable[str],
        limits: Mapping[str, float],
        lr: float | None = None,
        max_weight: float | None = None,
        decay: float = 0.9,
    ) -> None:
        super().__init__(terms)
        self.limits = _check_limits(limits, self.terms)
        self.lr = None if lr is None else check_positive("lr", lr)
        self.max_weight = None if max_weight is None else check_positive("max_weight", max_weight)
        self.decay = check_decay("decay", decay)
        units = {term: _unit(limit) for term, limit in self.limits.items()}
        rates = {term: lr or 0.01 / unit**2 for term, unit in units.items()}
        highest = {term: max_weight or 100 / unit for term, unit in units.items()}
        self.register_buffer("_limit", self._row(self.limits, 0.0), persistent=False)
        self.register_buffer("_lr", self._row(rates, 0.0), persistent=False)
        lowest = dict.fromkeys(self.limits, 0.0)  # the weight of a free term is 1
        ranges = torch.stack([self._row(lowest, 1.0), self._row(highest, 1.0)])
        self.register_buffer("_range", ranges, persistent=False)
        self.register_buffer("weight", ranges[0].clone())  # w
        self.register_buffer("average", start_average(len(self.terms)))  # a

    def observe(self, observation: Observation) -> None:
        """Takes a step of ascent on the multipliers of the terms that were seen."""
        seen, lowest, highest = observation.seen, *self._range
        move_average(self.average, observation.losses, seen, self.decay)
        slack = torch.addcdiv(self._limit, *self.average[:2], value=-1)  # l - a
        weight = torch.where(seen, torch.addcmul(self.weight, self._lr, slack, value=-1), self.weight)
        torch.clamp(weight, lowest, highest, out=self.weight)

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs the excess of a limited loss by its multiplier, and a free loss by 1."""
        return weighted_sum(losses - self._limit.to(losses.dtype), self.weight, present)

    @property
    def distances(self) -> dict[str, Tensor]:
        """How far the running average of each limited loss is above its limit; nan before the first step."""
        rows = zip(self.terms, (read_average(self.average) - self._limit).unbind(), strict=True)
        return {term: distance for term, distance in rows if term in self.limits}

    def check(self) -> None:
        """Warns of limits that are out of reach; synchronizes with the device."""
        columns = self.weight, self._range[1], read_average(self.average)
        rows = zip(self.terms, *(column.tolist() for column in columns), strict=True)
        for term, weight, highest, average in rows:
            if term in self.limits and weight >= highest * (1 - 1e-6) and average > self.limits[term]:
                warn_user(
                    f"The limit of {term!r}, {self.limits[term]:g}, is out of reach: its loss stands at {average:g}, "
                    f"and its weight at `max_weight`={highest:g}. Raise the limit, or `max_weight` if the "
                    "other terms may suffer more.",
                )

    def _row(self, numbers: Mapping[str, float], free: float) -> Tensor:
        return torch.tensor([numbers.get(term, free) for term in self.terms])


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


def _unit(limit: float) -> float:
    """Returns the size of a limit, or 1 for one that is 0: what a distance from it is large or small beside."""
    return abs(limit) if abs(limit) > 1e-12 else 1.0
