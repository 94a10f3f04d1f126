import pytest
import torch

from lossbalance import WeightedLoss
from lossbalance.weighting import SoftAdapt


@pytest.mark.parametrize(
    ("normalized", "loss_weighted", "expected"),
    [  # changes -3 and 1, losses 1 and 2
        (False, False, torch.softmax(torch.tensor([-6.0, 2.0]), dim=0)),
        (True, False, torch.softmax(2 * torch.tensor([-3 / 4, 1 / 4]), dim=0)),
        (False, True, torch.softmax(torch.tensor([-6.0, 2.0]) + torch.tensor([1.0, 2.0]).log(), dim=0)),
        (True, True, torch.softmax(2 * torch.tensor([-3 / 4, 1 / 4]) + torch.tensor([1.0, 2.0]).log(), dim=0)),
    ],
)
def test_each_variant_by_hand(normalized, loss_weighted, expected):
    scheme = SoftAdapt(["falls", "rises"], beta=2.0, normalized=normalized, loss_weighted=loss_weighted)
    scheme(torch.tensor([4.0, 1.0]))
    torch.testing.assert_close(scheme(torch.tensor([1.0, 2.0]))[1], expected)


def test_in_the_first_step_all_weights_are_the_same():
    assert SoftAdapt(["a", "b"])(torch.tensor([4.0, 1.0]))[1].tolist() == [0.5, 0.5]


def test_the_change_is_that_between_the_last_two_steps_that_have_the_term():
    criterion = WeightedLoss(SoftAdapt(["a", "b"]))
    for b in (5.0, None, 3.0):
        criterion({"a": torch.tensor(1.0), "b": None if b is None else torch.tensor(b)})
    assert criterion.weighting.rate.tolist() == [0.0, -2.0]


@pytest.mark.parametrize("loss_weighted", [True, False])
def test_a_term_that_comes_later_counts_as_one_that_stands_still(loss_weighted):
    criterion = WeightedLoss(SoftAdapt(["a", "late"], beta=1.0, normalized=False, loss_weighted=loss_weighted))
    for a, late in [(3.0, None), (1.0, None), (1.0, 1.0)]:
        criterion({"a": torch.tensor(a), "late": None if late is None else torch.tensor(late)})
        assert all(weight.isfinite() for weight in criterion.weights.values())
    assert criterion.weights["late"] == criterion.weights["a"] == 0.5


def test_a_beta_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="`beta` must be a finite number, got inf"):
        SoftAdapt(["a"], beta=float("inf"))
