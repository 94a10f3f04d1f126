"""Main term of an aggregator: its place among the terms, and the inner products of the others with it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lossbalance._utils.checks import check_choice

_MARGIN = 4.0  # times the relative precision of the inner products; 1 is too little


class MainTerm:
    """The term that the other ones must not harm.

    Args:
        name: Its name.

    Raises:
        TypeError: If ``name`` is not a string.
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"`main` must be the name of a term, such as 'main', got {name!r}.")
        self.name = name
        self.terms: tuple[str, ...] | None = None

    def set_terms(self, terms: Sequence[str]) -> None:
        """Sets the terms of the criterion.

        Raises:
            ValueError: If the main term is none of them, or other terms were set before.
        """
        check_choice("main", self.name, terms)
        if self.terms not in (None, tuple(terms)):
            raise ValueError(
                f"`conflict` must be an aggregator for the terms {list(terms)}, got one in use for "
                f"{list(self.terms or ())}: make an aggregator for each criterion."
            )
        self.terms = tuple(terms)

    @property
    def index(self) -> int:
        """The index of the main term.

        Raises:
            RuntimeError: Before :meth:`set_terms`.
        """
        if self.terms is None:
            raise RuntimeError(
                f"the index of the main term {self.name!r} is unknown: give the aggregator to a criterion, "
                "`WeightedLoss(..., conflict=...)`, or call its `set_terms` with the names of all terms."
            )
        return self.terms.index(self.name)

    def conflicts(self, gramian: Tensor, tolerance: float) -> Tensor:
        r"""Returns what each inner product with the main gradient lacks to be positive beyond rounding, ``[terms]``.

        .. math:: s_i = \max(0,\; \varepsilon \, \|g_m\| \max(0, \|g_i\| - \|g_m\|) - g_i \cdot g_m)

        The margin :math:`\varepsilon` exceeds the rounding errors of the inner products and of the combined gradient:
        without it they would reverse a main gradient that is small beside the others.
        """
        norms = gramian.diagonal().sqrt()
        main = norms[self.index]
        excess = (norms - main).clamp(min=0)
        return torch.addcmul(-gramian[self.index], excess, main, value=_MARGIN * tolerance).clamp(min=0)

    def compensate(self, kept: Tensor, gramian: Tensor, conflicts: Tensor) -> Tensor:
        """Returns the multipliers ``kept``, plus that of the main gradient which cancels the conflicts, in place."""
        square = gramian[self.index, self.index]
        kept[self.index] += conflicts.sum() / torch.where(square > 0, square, 1.0)
        return kept
