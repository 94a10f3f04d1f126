"""Aligned-MTL: equal singular values for the matrix of gradients."""

import torch
from torch import Tensor

from lossbalance.conflict.base import Aggregator
from lossbalance.conflict.eigen import decompose


class AlignedMTL(Aggregator):
    r"""Rescales the principal components of the gradients to the smallest singular value, and takes the mean.

    With the eigenvalues :math:`\lambda_r` of the matrix of inner products and its eigenvectors :math:`v_r`,

    .. math:: m = B \, \frac{\mathbf 1}{K}, \qquad
        B = \sqrt{\lambda_{\min}} \sum_r \frac{1}{\sqrt{\lambda_r}} v_r v_r^\top,

    where components with eigenvalue 0 are left out. The aligned gradients :math:`B g` have condition number 1: none
    dominates and none conflicts.

    Shape:
        The matrix is ``[terms, terms]``; multipliers are ``[terms]``.

    Source:
        Senushkin, Patakin, Kuznetsov and Konushin (2023), "Independent component alignment for multi-task learning",
        algorithm 1, https://arxiv.org/abs/2305.19000

    Example:
        >>> AlignedMTL()(torch.tensor([[1.0, 0.0], [0.0, 4.0]])).tolist()
        [0.5, 0.25]
    """

    def combine(self, gramian: Tensor, present: Tensor, tolerance: float) -> Tensor:
        """Rescales the principal components."""
        values, vectors = decompose(gramian)
        kept = values > tolerance * values.max()
        smallest = torch.where(kept, values, torch.inf).min()
        scale = torch.where(kept, smallest / values, 0.0).sqrt()
        mean = present / present.sum()
        return vectors @ (scale * (mean.to(values.dtype) @ vectors))
