"""IMTL-G (impartial multi-task learning): equal projections onto all gradients."""

import torch
from torch import Tensor

from lossbalance.conflict.base import Aggregator
from lossbalance.conflict.eigen import invert


class IMTLG(Aggregator):
    r"""Combines the gradients so that the result projects equally onto each of them.

    .. math:: d = \sum_i m_i g_i, \qquad d \cdot \frac{g_i}{\|g_i\|} \text{ the same for all } i, \qquad \sum_i m_i = 1.

    That is :math:`G m \propto (\|g_1\|, \dots, \|g_K\|)`, solved by the pseudo-inverse of the Gram matrix :math:`G`, so
    that gradients may be linearly dependent. A multiplier may be negative. For gradients in opposite directions the
    multipliers are unbounded; a sum of exactly 0 gives multipliers of 0.

    Shape:
        The matrix is ``[terms, terms]``; multipliers are ``[terms]``.

    Source:
        Liu, Li, Kuang, Xue, Chen, Yang, Liao and Zhang (2021), "Towards impartial multi-task learning", equation 4
        (IMTL-G), https://openreview.net/forum?id=IMPnRXEWpvr

    Example:
        >>> IMTLG()(torch.tensor([[1.0, 0.0], [0.0, 9.0]])).tolist()
        [0.75, 0.25]
    """

    def combine(self, gramian: Tensor, present: Tensor, tolerance: float) -> Tensor:
        """Solves for equal projections."""
        solution = invert(gramian, tolerance) @ gramian.diagonal().sqrt()
        total = solution.sum()
        return torch.where(total.abs() < 1e-12, 0.0, solution / total)
