"""Block principal pivoting: linear complementarity problems in a fixed number of steps."""

from collections.abc import Callable

import torch
from torch import Tensor

_BLOCK_STEPS = 5  # enough for 32 random gradients
_SINGLE_STEPS = 6  # at most, for gradients that span few dimensions


def find_support(solve: Callable[[Tensor], Tensor], support: Tensor) -> Tensor:
    r"""Solves :math:`y \ge 0,\; s(y) \ge 0,\; y_i s_i(y) = 0` by block principal pivoting.

    Each step solves the equalities within the current support, then exchanges every entry whose sign is infeasible.
    From the sixth step on a single entry is exchanged, the last infeasible one, which cannot cycle.

    Args:
        solve: Maps a support to a row ``[n]``: :math:`y` inside the support, :math:`s` outside. An entry below 0 is
            infeasible.
        support: The initial support, ``[n]``, boolean.

    Returns:
        The last :math:`y`, ``[n]``: 0 outside the support, negative entries clamped to 0.

    Source:
        Kim and Park (2011), "Fast nonnegative matrix factorization: an active-set-like method and comparisons",
        section 3.2 (block principal pivoting), https://doi.org/10.1137/110821172
    """
    indices = torch.arange(1, len(support) + 1, device=support.device)
    row = solve(support)
    for step in range(min(len(support) - 1, _BLOCK_STEPS + _SINGLE_STEPS)):
        infeasible = row < 0
        if step >= _BLOCK_STEPS:
            indexed = infeasible * indices
            infeasible = infeasible & (indexed == indexed.max())
        support = support ^ infeasible
        row = solve(support)
    return (row * support).clamp(min=0)


def solve_within(matrix: Tensor, right: Tensor, support: Tensor, identity: Tensor) -> Tensor:
    """Solves the linear system restricted to the support; returns ``[n, columns]``, 0 outside the support."""
    column = support.unsqueeze(1)
    return torch.linalg.solve_ex(torch.where(support & column, matrix, identity), right * column)[0]
