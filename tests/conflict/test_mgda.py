import pytest
import torch
from torch import Tensor

from lossbalance.conflict import MGDA

KINDS = {
    "random": lambda rows: rows,
    "alike": lambda rows: rows + 3 * rows[:1],
    "of few dimensions": lambda rows: rows[:, :2] @ rows[:2],
    "nearly adding up to zero": lambda rows: rows - 0.999 * rows.mean(dim=0),
}


def gradients(count: int, kind: str, seed: int) -> Tensor:
    rows = torch.randn(count, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return KINDS[kind](rows) * torch.logspace(-1, 1, count, dtype=torch.float64).unsqueeze(1)


def test_the_min_norm_point_of_two_gradients_by_hand():
    # g = (1, 0), (-1, 2): the min-norm point is (1/2, 1/2), the foot of the perpendicular from 0
    assert MGDA()(torch.tensor([[1.0, -1.0], [-1.0, 5.0]])).tolist() == pytest.approx([0.75, 0.25])
    # g = (1, 0), (2, 1): the first is the shortest of the hull
    assert MGDA()(torch.tensor([[1.0, 2.0], [2.0, 5.0]])).tolist() == pytest.approx([1.0, 0.0])


def test_unit_gradients_by_hand():
    # norms 1 and 2, at right angles: half of each unit gradient, so 1/2 and 1/4, scaled to the sum 1
    multipliers = MGDA(normalize=True)(torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
    assert multipliers.tolist() == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [3, 8, 16])
def test_every_inner_product_is_at_least_the_squared_norm_so_that_the_point_is_optimal(kind, count):
    for seed in range(10):
        rows = gradients(count, kind, seed)
        multipliers = MGDA()(rows @ rows.T)
        assert (multipliers >= 0).all()
        assert multipliers.sum() == pytest.approx(1)
        nearest = multipliers @ rows
        shortest = rows.norm(dim=1).min() ** 2
        assert (rows @ nearest).min() >= nearest.dot(nearest) - 1e-8 * shortest


def test_equal_gradients_get_equal_weights():
    assert MGDA()(torch.ones(4, 4)).tolist() == pytest.approx([0.25] * 4)


def test_a_string_in_place_of_a_flag_is_refused():
    with pytest.raises(TypeError, match="`normalize` must be True or False, got 'no'"):
        MGDA(normalize="no")
