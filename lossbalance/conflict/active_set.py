"""Which entries of a solution are positive, where the others must be 0."""

from collections.abc import Callable

import torch
from torch import Tensor

_AT_ONCE = 5  # steps, which do for 32 random gradients
_ONE_BY_ONE = 6  # more steps at most, for gradients that span few dimensions


def find_support(solve: Callable[[Tensor], Tensor], support: Tensor) -> Tensor:
    r"""Solves :math:`y \ge 0,\; s(y) \ge 0,\; y_i s_i(y) = 0` by a fixed number of guesses at the entries above 0.

    Each step solves the equalities for the entries that are guessed to be above 0, and moves each entry that turns out
    to be on the wrong side. What is still wrong after five steps is moved one entry at a time, which does not go round
    in circles.

    Args:
        solve: Returns a row ``[n]``: :math:`y` within the support that it is given, :math:`s` outside; an entry below 0
            is on the wrong side.
        support: The first guess, ``[n]``, boolean.

    Returns:
        The last :math:`y`, 0 outside the support, without what is below 0.

    Source:
        Kim and Park (2011), "Fast nonnegative matrix factorization: an active-set-like method and comparisons",
        section 3.2 (block principal pivoting), https://doi.org/10.1137/110821172
    """
    numbers = torch.arange(1, len(support) + 1, device=support.device)
    row = solve(support)
    for step in range(min(len(support) - 1, _AT_ONCE + _ONE_BY_ONE)):
        wrong = row < 0
        if step >= _AT_ONCE:
            numbered = wrong * numbers
            wrong = wrong & (numbered == numbered.max())
        support = support ^ wrong
        row = solve(support)
    return (row * support).clamp(min=0)


def solve_within(matrix: Tensor, right: Tensor, support: Tensor, identity: Tensor) -> Tensor:
    """Solves the rows and columns of the system that are in the support, ``[n, columns]``; 0 outside."""
    column = support.unsqueeze(1)
    return torch.linalg.solve_ex(torch.where(support & column, matrix, identity), right * column)[0]
