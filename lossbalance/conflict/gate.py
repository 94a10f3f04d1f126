"""Gate (gradient cosine similarity): auxiliary gradients that oppose the main gradient are left out."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lossbalance.conflict.base import Aggregator
from lossbalance.conflict.main_term import MainTerm


class Gate(Aggregator):
    r"""Leaves out each auxiliary gradient whose cosine with the gradient of the main term :math:`m` is negative.

    .. math:: d = g_m + \sum_{i \ne m} [\, g_i \cdot g_m \ge 0 \,] \; g_i, \qquad d \cdot g_m \ge \|g_m\|^2.

    So every step is at least as long along the main gradient as that of the main term alone. The heads of the terms
    that are left out still learn. In a step without the main term, or with a gradient of 0 for it, the auxiliary
    gradients are unchanged. An inner product of 0 up to rounding counts as no conflict, and what rounding may take from
    the main gradient is added to it.

    The inequality holds up to the precision of the gradients, in each backward pass: at an activation over the samples
    of all ranks, at parameters for the inner products averaged over ranks. It is one of the first order: components
    orthogonal to the main gradient remain, whatever their length: on two tables, harmful auxiliary terms
    raised the test loss of the main term by 88 %, with ``GradBalance`` 1:4 under it by 3.6 % (``docs/auxiliary.md``).

    Args:
        main: Name of the main term.

    Shape:
        The matrix is ``[terms, terms]``; multipliers are ``[terms]``.

    Raises:
        TypeError: If ``main`` is not a string.
        ValueError: If it is none of the terms of the criterion; raised when the criterion is made.

    Source:
        Du, Czarnecki, Jayakumar, Farajtabar, Pascanu and Lakshminarayanan (2018), "Adapting auxiliary losses using
        gradient similarity", the unweighted version, https://arxiv.org/abs/1812.02224

    Example:
        >>> aggregator = Gate("main")
        >>> aggregator.set_terms(["aux", "main"])
        >>> aggregator(torch.tensor([[4.0, -1.0], [-1.0, 1.0]])).tolist()
        [0.0, 1.0]
    """

    def __init__(self, main: str) -> None:
        super().__init__()
        self.main = MainTerm(main)

    def set_terms(self, terms: Sequence[str]) -> None:
        """Sets the terms of the criterion, one of which must be the main term."""
        self.main.set_terms(terms)

    def combine(self, gramian: Tensor, present: Tensor, tolerance: float) -> Tensor:
        """Keeps the gradients that do not oppose the main one."""
        kept = torch.ge(gramian[self.main.index], 0).to(gramian.dtype)
        return self.main.compensate(kept, gramian, kept * self.main.conflicts(gramian, tolerance))

    def extra_repr(self) -> str:
        """The main term."""
        return f"main={self.main.name!r}"
