"""Eigenvalues of small symmetric matrices."""

import torch
from torch import Tensor


def decompose(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the eigenvalues ``[n]`` of a symmetric matrix ``[n, n]``, in no order, and its eigenvectors in columns.

    On an accelerator ``torch.linalg.eigh`` waits for the device, to tell whether it has succeeded; rotations do not.
    """
    return tuple(torch.linalg.eigh(matrix)) if matrix.device.type == "cpu" else rotate(matrix)


def rotate(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Decomposes by Jacobi's rotations, a fixed number of them, half as many as there are rows at a time.

    Source:
        Brent and Luk (1985), "The solution of singular-value and symmetric eigenvalue problems on multiprocessor
        arrays", https://doi.org/10.1137/0906007, for the order in which pairs take turns.
    """
    rows = len(matrix)
    matrix = torch.nn.functional.pad(matrix, (0, rows % 2, 0, rows % 2))
    count = len(matrix)
    vectors = torch.eye(count, dtype=matrix.dtype, device=matrix.device)
    turn = _turn(vectors)
    crossed = torch.cat([-turn[count // 2 :], turn[: count // 2]])
    sweeps = 1 if count == 2 else 3 + (count - 1).bit_length()  # which takes fp64 to its last bits
    for _ in range((count - 1) * sweeps):
        angles = _angles(matrix).repeat(2).unsqueeze(1)
        rotation = torch.addcmul(angles.cos() * turn, angles.sin(), crossed)
        matrix = rotation.T @ matrix @ rotation
        vectors = vectors @ rotation
    return matrix.diagonal()[:rows], vectors[:rows, :rows]  # after whole sweeps the padding is back in its place


def _turn(identity: Tensor) -> Tensor:
    """Returns the permutation after which other rows are paired; all pairs have met when it is the identity again."""
    half = len(identity) // 2
    if half == 1:
        return identity
    first, upper, lower = identity[:, :1], identity[:, 1:half], identity[:, half:]
    return torch.cat([first, lower[:, :1], upper[:, :-1], lower[:, 1:], upper[:, -1:]], dim=1)


def _angles(matrix: Tensor) -> Tensor:
    """Returns the angle that brings row i and row i + n/2 to a product of 0, for each i below n/2.

    Of the two it is the smaller one, for which sweeps converge.
    """
    first, second = matrix.diagonal().chunk(2)
    tangent = 2 * matrix.diagonal(len(first)) / (first - second)  # of twice the angle; nan where all is 0
    return tangent.nan_to_num(0.0, torch.inf, -torch.inf).atan() / 2


def invert(matrix: Tensor, tolerance: float) -> Tensor:
    """Returns the pseudo-inverse of a symmetric matrix; an eigenvalue counts from ``tolerance`` times the largest."""
    values, vectors = decompose(matrix)
    reciprocals = torch.where(values.abs() > tolerance * values.abs().max(), 1 / values, 0.0)
    return vectors * reciprocals @ vectors.T
