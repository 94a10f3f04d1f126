import pytest
import torch

from lossbalance import WeightedLoss
from lossbalance.weighting import CoV


def test_three_steps_by_hand():
    scheme = CoV(["a", "b"])
    assert scheme(torch.tensor([2.0, 1.0]))[1].tolist() == [0.5, 0.5]
    scheme(torch.tensor([1.0, 2.0]))
    _, weights = scheme(torch.tensor([3.0, 1.5]))

    # ratios to the mean so far: 1, 1 / 2, 3 / 1.5 = 2, and 1, 2, 1.5 / 1.5 = 1
    ratios = torch.tensor([[1.0, 0.5, 2.0], [1.0, 2.0, 1.0]])
    variation = ratios.std(dim=1, unbiased=False) / ratios.mean(dim=1)
    torch.testing.assert_close(weights, variation / variation.sum())


def test_a_loss_that_stands_still_loses_its_weight():
    scheme = CoV(["moves", "stands"])
    for step in range(50):
        _, weights = scheme(torch.tensor([1.0 + step % 2, 1e-9]))
    assert weights.tolist() == pytest.approx([1.0, 0.0])


def test_losses_that_all_stand_still_weigh_the_same():
    scheme = CoV(["a", "b"])
    for _ in range(3):
        _, weights = scheme(torch.tensor([1.0, 2.0]))
    assert weights.tolist() == [0.5, 0.5]


def test_the_unit_of_a_loss_makes_no_difference():
    plain, scaled = CoV(["a", "b"]), CoV(["a", "b"])
    for step in range(20):
        row = torch.rand(2, generator=torch.Generator().manual_seed(step)) + 0.1
        torch.testing.assert_close(plain(row)[1], scaled(row * torch.tensor([1e6, 1e-6]))[1], rtol=1e-4, atol=0)


def test_a_term_seen_once_weighs_what_the_others_weigh_in_the_mean():
    criterion = WeightedLoss(CoV(["a", "b", "new"]))
    for a, b, new in [(1.0, 1.0, None), (2.0, 1.5, None), (1.0, 1.0, 7.0)]:
        criterion({"a": torch.tensor(a), "b": torch.tensor(b), "new": None if new is None else torch.tensor(new)})
    assert criterion.weights["new"].item() == pytest.approx(1 / 3)


def test_a_loss_that_is_not_positive_is_refused_by_name():
    with pytest.raises(ValueError, match=r"must be above 0 for CoV, got \{'b': 0.0\}"):
        CoV(["a", "b"])(torch.tensor([1.0, 0.0]))
