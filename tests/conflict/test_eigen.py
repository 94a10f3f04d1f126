import pytest
import torch

from lossbalance.conflict.eigen import invert, rotate


@pytest.mark.parametrize("count", [1, 2, 3, 8, 17, 32])
def test_rotations_agree_with_lapack(count):
    rows = torch.randn(count, 9, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    matrix = rows @ rows.T / count
    values, vectors = rotate(matrix)
    torch.testing.assert_close(values.sort().values, torch.linalg.eigvalsh(matrix), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(vectors * values @ vectors.T, matrix)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(count, dtype=torch.float64))


def test_a_matrix_of_rank_1_has_its_pseudo_inverse():
    # the eigenvector (1, 2) has eigenvalue 5, so the pseudo-inverse is the matrix over 25
    matrix = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
    torch.testing.assert_close(invert(matrix, tolerance=1e-6), matrix / 25)
