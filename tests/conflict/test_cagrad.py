import math

import pytest
import torch

from lossbalance.conflict import MGDA, CAGrad
from tests.conflict.test_mgda import gradients


def test_two_gradients_by_hand():
    # g = (2, 0), (0, 0.5): the mean is (1, 1/4), of norm r; the second gains least, so the step is along (0, 1)
    radius = 0.5 * math.sqrt(1 + 1 / 16)
    multipliers = CAGrad(c=0.5)(torch.tensor([[4.0, 0.0], [0.0, 0.25]]))
    assert multipliers.tolist() == pytest.approx([0.5, 0.5 + radius / 0.5])


def test_radius_0_gives_the_mean():
    assert CAGrad(c=0)(torch.tensor([[1.0, -0.5, 0.0], [-0.5, 4.0, 0.0], [0.0, 0.0, 0.0]])).tolist() == [0.5, 0.5, 0]


@pytest.mark.parametrize("kind", ["random", "alike", "nearly adding up to zero"])
@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_smallest_improvement_equals_the_bound_of_the_dual_problem(kind, count):
    for seed in range(10):
        rows, c = gradients(count, kind, seed), 0.6
        multipliers = CAGrad(c)(rows @ rows.T)
        mean, result = rows.mean(dim=0), multipliers @ rows
        torch.testing.assert_close((result - mean).norm(), c * mean.norm())
        weights = (multipliers - 1 / count) / (multipliers - 1 / count).sum()
        bound = weights @ rows @ mean + c * mean.norm() * (weights @ rows).norm()
        torch.testing.assert_close((rows @ result).min(), bound, rtol=1e-6, atol=1e-9 * rows.norm().item() ** 2)


def test_for_a_large_radius_the_direction_is_that_of_mgda():
    rows = torch.tensor([[1.0, 0.2], [-0.3, 1.5]], dtype=torch.float64)
    far, shortest = CAGrad(c=1e6)(rows @ rows.T) @ rows, MGDA()(rows @ rows.T) @ rows
    torch.testing.assert_close(far / far.norm(), shortest / shortest.norm(), rtol=1e-5, atol=1e-5)


def test_a_pareto_stationary_point_gives_multipliers_of_0():
    opposite = torch.tensor([[1.0, -2.0], [-2.0, 4.0]])
    assert CAGrad(c=2)(opposite).tolist() == [0.0, 0.0]
    # within half of the mean's norm (the mean is -1/2), the optimum is -1/4
    assert CAGrad(c=0.5)(opposite).tolist() == pytest.approx([0.75, 0.5])


@pytest.mark.parametrize("c", [-0.1, math.inf])
def test_a_radius_out_of_range_is_refused(c):
    with pytest.raises(ValueError, match="`c` must be a number, 0 or more, got"):
        CAGrad(c=c)
