"""CAGrad (conflict-averse gradient descent): best worst-case improvement near the mean gradient."""

import math

import torch
from torch import Tensor

from lossbalance._utils.checks import check_number
from lossbalance.conflict.active_set import find_support, solve_within
from lossbalance.conflict.base import Aggregator, normalize


class CAGrad(Aggregator):
    r"""Maximizes the smallest improvement over the terms within a ball around the mean gradient.

    With the mean :math:`g_0 = \frac1K \sum_i g_i`,

    .. math:: d = \arg\max_d \min_i \; g_i \cdot d \quad \text{where} \quad \|d - g_0\| \le c \, \|g_0\|.

    The solution is :math:`d = g_0 + \sum_i y_i g_i` with :math:`y \ge 0`, so that :math:`m_i = \frac1K + y_i`. With the
    smallest improvement :math:`\nu` and the slack :math:`s_i = g_i \cdot d - \nu`, it satisfies :math:`s \ge 0`,
    :math:`y_i s_i = 0` and :math:`\|\sum_i y_i g_i\| = c \|g_0\|`: for a given support a linear system, and a quadratic
    equation for :math:`\nu`.

    For :math:`c \ge 1`, where a convex combination of the gradients vanishes (Pareto stationarity), the multipliers
    are 0.

    Args:
        c: Radius of the ball over the norm of the mean gradient: 0 is the mean gradient, large values approach
            :class:`MGDA`.

    Shape:
        The matrix is ``[terms, terms]``; multipliers are ``[terms]``.

    Raises:
        TypeError: If ``c`` is not a number.
        ValueError: If ``c`` is negative or not finite.

    Source:
        Liu, Liu, Jin, Stone and Liu (2021), "Conflict-averse gradient descent for multi-task learning", equation 2 and
        algorithm 1, https://arxiv.org/abs/2110.14048

    Example:
        >>> CAGrad(c=0.5)(torch.eye(2)).tolist()  # the mean, and 0.5 times its norm along itself
        [0.75, 0.75]
    """

    def __init__(self, c: float = 0.5) -> None:
        super().__init__()
        self.c = check_number("c", c, "a number, 0 or more", lambda number: 0 <= number < math.inf)

    def combine(self, gramian: Tensor, present: Tensor, tolerance: float) -> Tensor:
        r"""Solves for :math:`y_i \|g_i\|`, the coefficients of unit gradients, so that small gradients count."""
        norms, cosines = normalize(gramian, present)
        mean = present / present.sum()
        gains = cosines @ (mean * norms)  # g_i . g_0 / |g_i|
        square = self.c**2 * gains.dot(mean * norms).clamp(min=0)  # c^2 |g_0|^2
        identity = torch.eye(len(norms), dtype=norms.dtype, device=norms.device)
        system = torch.add(cosines, identity, alpha=tolerance)
        inverse = present / norms
        right = torch.stack([inverse, gains], dim=1)
        allowed = torch.stack([inverse, gains + tolerance**0.5], dim=1)

        def solve(support: Tensor) -> Tensor:
            solution = solve_within(system, right, support, identity)
            (qq, qp), (_, pp) = (right.T @ solution).unbind()
            root = torch.addcmul(qp.square(), qq, square - pp).clamp(min=0).sqrt()
            nu = (qp + root) / qq
            rows = torch.where(support.unsqueeze(1), solution, torch.addmm(allowed, system, solution, beta=-1))
            return torch.addcmul(
                rows[:, 1], nu, rows[:, 0], value=-1
            ).neg()  # y = nu a - b in the support, the slack outside

        y = find_support(solve, present)
        length = y.dot(cosines @ y).clamp(min=0).sqrt()  # c |g_0| up to rounding
        y = torch.where(length > 0, y * (square.sqrt() / length), 0.0) / norms
        nearest = square / y.sum().square()  # squared norm of sum_i y_i g_i / sum_i y_i
        stationary = nearest < max(1e-8, 4 * tolerance) * gramian.trace()
        return torch.where(stationary, 0.0, mean + y)

    def extra_repr(self) -> str:
        """The setting."""
        return f"c={self.c}"
