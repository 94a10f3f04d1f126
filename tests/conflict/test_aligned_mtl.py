import pytest
import torch

from lossbalance.conflict import AlignedMTL
from tests.conflict.test_mgda import gradients


def test_two_gradients_by_hand():
    # [[5, 4], [4, 5]] has eigenvalues 9 along (1, 1) and 1 along (1, -1); the mean (1, 1) / 2 shrinks by sqrt(1 / 9)
    assert AlignedMTL()(torch.tensor([[5.0, 4.0], [4.0, 5.0]])).tolist() == pytest.approx([1 / 6, 1 / 6])


def test_the_aligned_gradients_are_orthogonal_and_equally_long():
    rows = gradients(4, "random", 0)
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    aligned = (values[0] / values).sqrt() * vectors @ vectors.T @ rows
    torch.testing.assert_close(aligned @ aligned.T, values[0] * torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(AlignedMTL()(rows @ rows.T) @ rows, aligned.mean(dim=0))


def test_a_component_with_eigenvalue_0_is_left_out():
    # two equal gradients of norm 1: one component with eigenvalue 2, unchanged
    assert AlignedMTL()(torch.ones(2, 2)).tolist() == pytest.approx([0.5, 0.5])
