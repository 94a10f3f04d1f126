"""ConFIG (conflict-free inverse gradients): equal cosine with all gradients."""

import torch
from torch import Tensor

from lossbalance.conflict.base import Aggregator, normalize
from lossbalance.conflict.eigen import invert


class ConFIG(Aggregator):
    r"""Takes the direction of equal cosine with every gradient, scaled by the sum of their projections on it.

    With :math:`u_i = g_i / \|g_i\|` in the rows of :math:`U`, and :math:`^+` for the pseudo-inverse,

    .. math:: v = U^+ \mathbf 1, \qquad d = \Big( \sum_i g_i \cdot \frac{v}{\|v\|} \Big) \frac{v}{\|v\|}.

    As :math:`U^+ = U^\top (U U^\top)^+`, the direction is a combination :math:`v = \sum_i \beta_i u_i`, with
    :math:`\beta = C^+ \mathbf 1` from the matrix :math:`C = U U^\top` of cosines alone, and

    .. math:: m_i = \frac{\sum_j \|g_j\| (C \beta)_j}{\beta^\top C \beta} \, \frac{\beta_i}{\|g_i\|}.

    For linearly dependent gradients, the rank of :math:`C` is determined to half as many digits as that of :math:`U`.

    Shape:
        The matrix is ``[terms, terms]``; multipliers are ``[terms]``.

    Source:
        Liu, Chu and Thuerey (2024), "ConFIG: towards conflict-free training of physics informed neural networks",
        equations 2 and 3, https://arxiv.org/abs/2408.11104

    Example:
        >>> ConFIG()(torch.tensor([[1.0, 0.0], [0.0, 9.0]])).tolist()  # (1 + 3) / 2, over each norm
        [2.0, 0.6666666865348816]
    """

    def combine(self, gramian: Tensor, present: Tensor, tolerance: float) -> Tensor:
        """Solves for the direction and scales it."""
        norms, cosines = normalize(gramian, present)
        beta = invert(cosines, tolerance) @ present.to(norms.dtype)
        projections = cosines @ beta
        square = beta.dot(projections)  # |v|^2
        length = torch.where(square > tolerance, norms.dot(projections) / square, 0.0)  # over |v|
        return length * beta / norms
