import pytest
import torch

from lossbalance.conflict import ConFIG
from tests.conflict.test_mgda import gradients


def test_two_gradients_by_hand():
    # g = (1, 0), (-3, 4): the bisector of the units is along (1, 2), on which they have 1 and 5 over sqrt(5).
    # So the length is 6 / sqrt(5), and the result (6 / 5) (1, 2) = 3 (1, 0) + (3 / 5) (-3, 4)
    assert ConFIG()(torch.tensor([[1.0, -3.0], [-3.0, 25.0]])).tolist() == pytest.approx([3.0, 0.6])


def test_every_gradient_has_the_same_positive_cosine_with_the_result():
    rows = gradients(8, "random", 0)
    result = ConFIG()(rows @ rows.T) @ rows
    cosines = rows @ result / rows.norm(dim=1) / result.norm()
    assert cosines[0] > 0
    torch.testing.assert_close(cosines, cosines[0].expand(8))
    torch.testing.assert_close(result.norm(), (rows @ result).sum() / result.norm())


def test_opposite_gradients_have_no_common_direction():
    assert ConFIG()(torch.tensor([[1.0, -2.0], [-2.0, 4.0]])).tolist() == [0.0, 0.0]
