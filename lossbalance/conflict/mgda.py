"""The shortest gradient between those of the terms."""

import torch
from torch import Tensor

from lossbalance._utils.checks import check_flag
from lossbalance.conflict.active_set import find_support, solve_within
from lossbalance.conflict.base import Aggregator, normalize


class MGDA(Aggregator):
    r"""Takes the point of the gradients' convex hull that is nearest to zero.

    .. math:: \alpha = \arg\min_{\alpha \ge 0,\; \sum_i \alpha_i = 1} \Big\| \sum_i \alpha_i g_i \Big\|^2,
        \qquad m_i = \alpha_i.

    Its product with every gradient is at least its own square: a small step along it makes no loss larger. So a small
    gradient is heard and a large one hardly; where gradients are compared that differ by orders of magnitude,
    ``normalize`` asks for the hull of :math:`g_i / \|g_i\|`, and :math:`m_i \propto \alpha_i / \|g_i\|` with sum 1.

    With :math:`y_i = \alpha_i \|g_i\|` and a multiple of it, this is a least squares problem under :math:`y \ge 0`,
    which is solved exactly, in a dozen small linear systems at most.

    Args:
        normalize: Whether gradients are divided by their norms first.

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
        """Solves for the nearest point on the scale of unit gradients, on which small ones count."""
        norms, cosines = normalize(gramian, present)
        target = present.to(norms.dtype)
        if not self.normalize:
            target = target * torch.where(present, norms, torch.inf).min() / norms
        # min |sum_i y_i u_i|^2 + (target . y - 1)^2 is a multiple of the nearest point where target . y = 1
        identity = torch.eye(len(norms), dtype=norms.dtype, device=norms.device)
        system = torch.addr(cosines, target, target).add_(identity, alpha=tolerance)  # equal gradients share
        right, allowed = target.unsqueeze(1), tolerance**0.5 - target

        def solve(support: Tensor) -> Tensor:
            y = solve_within(system, right, support, identity).squeeze(1)
            return torch.where(support, y, torch.addmv(allowed, system, y))

        alpha = find_support(solve, present) / norms
        return alpha / alpha.sum()

    def extra_repr(self) -> str:
        """The setting."""
        return f"normalize={self.normalize}"
