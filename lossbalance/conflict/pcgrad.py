"""PCGrad (gradient surgery): projects out conflicting components."""

import torch
from torch import Tensor

from lossbalance._utils.checks import check_integer
from lossbalance.conflict.base import Aggregator

_FACTOR, _PRIME = 48271, 2**31 - 1  # Park, Miller and Stockmeyer (1993), "Technical correspondence", CACM 36(7)


class PCGrad(Aggregator):
    r"""Projects each gradient onto the normal planes of those it conflicts with, and takes the sum.

    For each term i, starting from :math:`g_i^{PC} = g_i`, and for the other terms j in random order,

    .. math:: g_i^{PC} \leftarrow g_i^{PC} - \frac{\min(0,\; g_i^{PC} \cdot g_j)}{\|g_j\|^2} \, g_j,
        \qquad d = \sum_i g_i^{PC}.

    Without a conflict it is the plain sum. The order, which matters for three or more terms, is drawn in each step from
    a random state kept in a buffer: the same on all ranks, and after a resume.

    Args:
        seed: Seed of the order.

    Shape:
        The matrix is ``[terms, terms]``; multipliers are ``[terms]``.

    Raises:
        TypeError: If ``seed`` is not an integer.
        ValueError: If ``seed`` is negative or too large.

    Source:
        Yu, Kumar, Gupta, Levine, Hausman and Finn (2020), "Gradient surgery for multi-task learning", algorithm 1,
        https://arxiv.org/abs/2001.06782

    Example:
        >>> PCGrad()(torch.tensor([[1.0, -1.0], [-1.0, 4.0]])).tolist()  # 1 + 1 / 1, and 1 + 1 / 4
        [2.0, 1.25]
    """

    draw: Tensor

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = check_integer("seed", seed, 0, _PRIME - 2)
        self.register_buffer("draw", torch.tensor(self.seed + 1))

    def combine(self, gramian: Tensor, present: Tensor, tolerance: float) -> Tensor:
        """Projects all gradients in parallel, each by its own order of the others."""
        removed = -gramian / torch.where(present, gramian.diagonal(), 1.0).unsqueeze(1)  # - g_i . g_j / |g_i|^2
        parts = torch.eye(len(gramian), dtype=gramian.dtype, device=gramian.device)  # coefficient of g_j in g_i^PC
        order = self._order(len(gramian))
        for other, rows in zip(order, removed[torch.stack(order)], strict=True):
            conflict = (parts * rows).sum(dim=1, keepdim=True).clamp(min=0)
            parts.scatter_add_(1, other.unsqueeze(1), conflict)
        return parts.sum(dim=0)

    def update_state(self, valid: Tensor) -> None:
        """Draws the next random state."""
        self.draw.copy_(torch.where(valid, self.draw * _FACTOR % _PRIME, self.draw))

    def _order(self, count: int) -> tuple[Tensor, ...]:
        """Returns, for each round, the term that each gradient is projected against, ``[terms]``."""
        if count == 2:
            return (torch.arange(1, -1, -1, device=self.draw.device),)
        cells = torch.arange(count * count, device=self.draw.device).view(count, count)
        keys = (self.draw + cells) * _FACTOR % _PRIME
        keys = (keys * keys + cells) % _PRIME  # a linear generator alone yields few orders
        keys = keys.masked_fill(
            torch.eye(count, dtype=torch.bool, device=keys.device), _PRIME
        )  # the term itself is last
        return keys.argsort(dim=1)[:, :-1].unbind(dim=1)
