"""Which entries of a solution are positive, where the others must be 0."""

from collections.abc import Callable

import torch
from torch import Tensor

_STEPS = 12  # at most; five do for 32 random gradients, more than that where they span few dimensions
_PATIENCE = 3  # steps


def find_support(solve: Callable[[Tensor], tuple[Tensor, Tensor]], support: Tensor, tolerance: float) -> Tensor:
    r"""Solves :math:`y \ge 0,\; s(y) \ge 0,\; y_i s_i(y) = 0` by a fixed number of guesses at the entries above 0.

    Each step solves the equalities for the entries that are guessed to be above 0, and moves each entry that turns out
    to be on the wrong side. Where that has not helped for three steps it moves one entry at a time, which does not go
    round in circles.

    Args:
        solve: Returns :math:`y`, 0 outside the support it is given, and :math:`s`, 0 within.
        support: The entries that may be above 0, ``[n]``, boolean; the first guess is all of them.
        tolerance: A slack is taken for negative below minus this.

    Returns:
        The last :math:`y`, without what is below 0.

    Source:
        Kim and Park (2011), "Fast nonnegative matrix factorization: an active-set-like method and comparisons",
        section 3.2 (block principal pivoting), https://doi.org/10.1137/110821172
    """
    allowed, places = support, torch.arange(len(support), device=support.device)
    fewest = torch.full((), len(support) + 1, device=support.device)
    patience = torch.full_like(fewest, _PATIENCE)
    y, slack = solve(support)
    for _ in range(min(len(support), _STEPS) - 1):
        wrong = allowed & torch.where(support, y < 0, slack < -tolerance)
        count = wrong.sum()
        patience = torch.where(count < fewest, _PATIENCE, patience - 1)
        fewest = torch.minimum(fewest, count)
        last = (wrong * (places + 1)).argmax()
        support = support ^ (wrong & ((patience >= 0) | (places == last)))
        y, slack = solve(support)
    return y.clamp(min=0)


def solve_within(matrix: Tensor, right: Tensor, support: Tensor) -> Tensor:
    """Solves the rows and columns of the system that are in the support, ``[n, columns]``; 0 outside."""
    inside = support & support.unsqueeze(1)
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.solve_ex(torch.where(inside, matrix, identity), right * support.unsqueeze(1))[0]
