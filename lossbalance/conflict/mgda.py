"""MGDA (multiple-gradient descent): min-norm point of the convex hull."""

import torch
from torch import Tensor

from lossbalance._utils.checks import check_flag
from lossbalance.conflict.active_set import find_support, solve_within
from lossbalance.conflict.base import Aggregator, normalize


class MGDA(Aggregator):
    r"""Takes the min-norm point in the convex hull of the gradients.

    .. math:: \alpha = \arg\min_{\alpha \ge 0,\; \sum_i \alpha_i = 1} \Big\| \sum_i \alpha_i g_i \Big\|^2,
        \qquad m_i = \alpha_i.

    Its inner product with every gradient is at least its own squared norm: a small step along it increases no loss. The
    smallest gradients dominate it. ``normalize`` takes the hull of :math:`g_i / \|g_i\|` instead, for gradients that
    differ by orders of magnitude, and :math:`m_i \propto \alpha_i / \|g_i\|` with sum 1.

    With :math:`y_i \propto \alpha_i \|g_i\|` this is a least-squares problem under :math:`y \ge 0`, solved exactly by
    at most a dozen small linear systems.

    Args:
        normalize: Whether the gradients are divided by their norms first.

    Shape:
        The matrix is ``[terms, terms]``; multipliers are ``[terms]``.

    Raises:
        TypeError: If ``normalize`` is not a bool.

    Source:
        Desideri (2012), "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization",
        https://doi.org/10.1016/j.crma.2012.03.014; Sener and Koltun (2018), equation 3,
        https://arxiv.org/abs/1810.04650

    Example:
        >>> MGDA()(torch.tensor([[1.0, 0.0], [0.0, 4.0]])).tolist()
        [0.800000011920929, 0.20000000298023224]
    """

    def __init__(self, normalize: bool = False) -> None:
        super().__init__()
        self.normalize = check_flag("normalize", normalize)

    def combine(self, gramian: Tensor, present: Tensor, tolerance: float) -> Tensor:
        """Solves for the coefficients of unit gradients, so that small gradients count."""
        norms, cosines = normalize(gramian, present)
        target = present.to(norms.dtype)
        if not self.normalize:
            target = target * torch.where(present, norms, torch.inf).min() / norms
        # min |sum_i y_i u_i|^2 + (target . y - 1)^2 is solved by a multiple of the min-norm point with target . y = 1
        identity = torch.eye(len(norms), dtype=norms.dtype, device=norms.device)
        system = torch.addr(cosines, target, target).add_(
            identity, alpha=tolerance
        )  # equal gradients get equal weights
        right, allowed = target.unsqueeze(1), tolerance**0.5 - target

        def solve(support: Tensor) -> Tensor:
            y = solve_within(system, right, support, identity).squeeze(1)
            return torch.where(support, y, torch.addmv(allowed, system, y))

        alpha = find_support(solve, present) / norms
        return alpha / alpha.sum()

    def extra_repr(self) -> str:
        """The setting."""
        return f"normalize={self.normalize}"
