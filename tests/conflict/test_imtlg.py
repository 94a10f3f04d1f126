import pytest
import torch

from lossbalance.conflict import IMTLG
from tests.conflict.test_mgda import gradients


def test_two_gradients_by_hand():
    # g = (1, 0), (3, 4), norms 1 and 5: m = (5, 1) / 6 gives (8, 4) / 6, which projects to 8/6 on each
    multipliers = IMTLG()(torch.tensor([[1.0, 3.0], [3.0, 25.0]]))
    assert multipliers.tolist() == pytest.approx([5 / 6, 1 / 6])


def test_all_projections_are_equal():
    rows = gradients(8, "random", 0)
    multipliers = IMTLG()(rows @ rows.T)
    projections = rows @ (multipliers @ rows) / rows.norm(dim=1)
    torch.testing.assert_close(projections, projections.mean().expand(8))
    assert multipliers.sum() == pytest.approx(1)


def test_parallel_gradients_get_multipliers_proportional_to_their_norms():
    assert IMTLG()(torch.tensor([[1.0, 2.0], [2.0, 4.0]])).tolist() == pytest.approx([1 / 3, 2 / 3])
