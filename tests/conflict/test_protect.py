import pytest
import torch

from lossbalance.conflict import PCGrad, Protect


def protect(*terms: str) -> Protect:
    aggregator = Protect("main")
    aggregator.set_terms(terms)
    return aggregator


def test_three_gradients_by_hand():
    # main (2, 0), auxiliaries (-1, 1) and (-3, 4): they become (0, 1) and (0, 4), so main counts 1 + 1/2 + 3/2
    rows = torch.tensor([[-1.0, 1.0], [2.0, 0.0], [-3.0, 4.0]])
    multipliers = protect("left", "main", "right")(rows @ rows.T)
    assert multipliers.tolist() == pytest.approx([1.0, 3.0, 1.0], rel=2e-6)
    assert (multipliers @ rows).tolist() == pytest.approx([2.0, 5.0], rel=1e-5)


def test_it_is_the_half_of_pcgrad_that_projects_the_auxiliary_gradient():
    gramian = torch.tensor([[4.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    ours, both = protect("aux", "main")(gramian), PCGrad()(gramian)
    assert ours[1] == pytest.approx(both[1].item())
    assert ours[0] == 1
