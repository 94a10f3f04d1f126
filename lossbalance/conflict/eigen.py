"""Jacobi eigenvalue algorithm for small symmetric matrices."""

import torch
from torch import Tensor


def decompose(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the eigenvalues ``[n]``, unordered, and eigenvectors (columns) of a symmetric matrix ``[n, n]``.

    On an accelerator ``torch.linalg.eigh`` synchronizes with the host, to check for convergence; rotations do not.
    """
    return tuple(torch.linalg.eigh(matrix)) if matrix.device.type == "cpu" else rotate(matrix)


def rotate(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Decomposes by a fixed number of Jacobi rotations, ``n / 2`` disjoint ones at a time.

    Source:
        Brent and Luk (1985), "The solution of singular-value and symmetric eigenvalue problems on multiprocessor
        arrays", https://doi.org/10.1137/0906007, for the order of the pairs.
    """
    rows = len(matrix)
    matrix = torch.nn.functional.pad(matrix, (0, rows % 2, 0, rows % 2))
    count = len(matrix)
    vectors = torch.eye(count, dtype=matrix.dtype, device=matrix.device)
    permutation = _pair_order(vectors)
    crossed = torch.cat([-permutation[count // 2 :], permutation[: count // 2]])
    sweeps = 1 if count == 2 else 3 + (count - 1).bit_length()  # converged to fp64 precision
    for _ in range((count - 1) * sweeps):
        angles = _angles(matrix).repeat(2).unsqueeze(1)
        rotation = torch.addcmul(angles.cos() * permutation, angles.sin(), crossed)
        matrix = rotation.T @ matrix @ rotation
        vectors = vectors @ rotation
    return matrix.diagonal()[:rows], vectors[:rows, :rows]  # whole sweeps restore the order


def _pair_order(identity: Tensor) -> Tensor:
    """Returns the permutation between two steps of a sweep: a round robin in which all pairs meet once."""
    half = len(identity) // 2
    if half == 1:
        return identity
    first, upper, lower = identity[:, :1], identity[:, 1:half], identity[:, half:]
    return torch.cat([first, lower[:, :1], upper[:, :-1], lower[:, 1:], upper[:, -1:]], dim=1)


def _angles(matrix: Tensor) -> Tensor:
    """Returns the rotation angles ``[n / 2]`` that zero the entries ``(i, i + n / 2)``.

    Of the two solutions it is the smaller one, for which the sweeps converge.
    """
    first, second = matrix.diagonal().chunk(2)
    tangent = 2 * matrix.diagonal(len(first)) / (first - second)  # of twice the angle; nan for a zero block
    return tangent.nan_to_num(0.0, torch.inf, -torch.inf).atan() / 2


def invert(matrix: Tensor, tolerance: float) -> Tensor:
    """Computes the pseudo-inverse of a symmetric matrix; eigenvalues up to ``tolerance`` of the largest count as 0."""
    values, vectors = decompose(matrix)
    reciprocals = torch.where(values.abs() > tolerance * values.abs().max(), 1 / values, 0.0)
    return vectors * reciprocals @ vectors.T
