"""Smooth Tchebycheff scalarization (STCH): a smooth maximum of the losses."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lossbalance._utils.checks import check_mapping, check_number, check_positive
from lossbalance.weighting.averages import set_where
from lossbalance.weighting.base import Observation, Weighting, weighted_sum


class SmoothTchebycheff(Weighting):
    r"""Minimizes a smooth maximum of the losses: the worst counts most.

    With preferences :math:`\lambda_i` and an ideal point :math:`z_i`, which no loss can fall below,

    .. math:: T = \mu \ln \sum_i e^{y_i}, \qquad y_i = \lambda_i (L_i - z_i) / \mu, \qquad
              w_i = \frac{\partial T}{\partial L_i} = \lambda_i \operatorname{softmax}(y)_i.

    As :math:`\mu` falls to 0 the largest weighted loss gets all the weight; as it grows the weights become the
    preferences. It has the unit of the weighted losses: losses in units of their own want preferences that bring them
    to one.

    The weights are computed from the losses of the step, averaged over ranks, and the total is its tangent there: on a
    single process T itself. A term that a step lacks stands at its last loss, with weight 0. In ``eval()`` the weights
    are those of the last training step.

    Args:
        terms: Names of the losses, in the order of the row.
        mu: :math:`\mu`, above 0.
        preferences: :math:`\lambda_i` by term, positive; 1 / K each if None.
        ideal: :math:`z_i` by term; 0 each if None.

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        TypeError: If a setting is not a number, or not a mapping to numbers.
        ValueError: If ``mu`` or a preference is not positive, or a mapping does not name each term once.

    Source:
        Lin, Zhang, Yang, Liu, Wang and Zhang (2024), "Smooth Tchebycheff Scalarization for Multi-Objective
        Optimization", equation 10, https://arxiv.org/abs/2402.19078

    Example:
        >>> scheme = SmoothTchebycheff(["data", "physics"], preferences={"data": 1.0, "physics": 1.0})
        >>> total, weights = scheme(torch.tensor([2.0, 2.0]))
        >>> total, weights  # 2 + ln 2
        (tensor(2.6931), tensor([0.5000, 0.5000]))
    """

    latest: Tensor
    _scale: Tensor
    _slope: Tensor
    _shift: Tensor

    def __init__(
        self,
        terms: Iterable[str],
        mu: float = 1.0,
        preferences: Mapping[str, float] | None = None,
        ideal: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(terms)
        self.mu = check_positive("mu", mu)
        self.preferences = dict.fromkeys(self.terms, 1 / len(self.terms)) if preferences is None else preferences
        self.ideal = dict.fromkeys(self.terms, 0.0) if ideal is None else ideal
        check_mapping("preferences", self.preferences, self.terms)
        check_mapping("ideal", self.ideal, self.terms)
        scale = [check_positive(f"preferences[{term!r}]", self.preferences[term]) for term in self.terms]
        point = [_check_ideal(term, self.ideal[term]) for term in self.terms]
        self.register_buffer("_scale", torch.tensor(scale), persistent=False)  # lambda
        self.register_buffer("_slope", self._scale / self.mu, persistent=False)
        self.register_buffer("_shift", torch.tensor(point) * -self._slope, persistent=False)  # y at a loss of 0
        self.register_buffer("latest", torch.tensor(point))

    def observe(self, observation: Observation) -> None:
        """Stores the losses of the step."""
        set_where(self.latest, observation.seen, observation.losses)

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs each loss by the derivative of the smooth maximum."""
        y = torch.addcmul(self._shift, self._slope, self.latest)
        weights = self._scale * torch.softmax(y, dim=0)
        change, weights = weighted_sum(losses - self.latest, weights, present)
        return torch.add(change, torch.logsumexp(y, dim=0), alpha=self.mu), weights


def _check_ideal(term: str, value: object) -> float:
    return check_number(f"ideal[{term!r}]", value, "a finite number", lambda number: abs(number) < 3e38)
