import pytest
import torch
from torchjd import scalarization

from lossbalance import WeightedLoss
from lossbalance.weighting import GeometricMean, Observation


def test_it_equals_an_independent_implementation_in_value_and_gradient():
    losses = torch.tensor([0.3, 20.0, 4.0], requires_grad=True)
    copy = losses.detach().clone().requires_grad_()
    total, weights = GeometricMean(["a", "b", "c"])(losses)
    reference = scalarization.GeometricMean()(copy)
    total.backward()
    reference.backward()
    torch.testing.assert_close([total, losses.grad, weights], [reference, copy.grad, copy.grad])


def test_an_absent_term_stands_at_its_last_loss():
    criterion = WeightedLoss(GeometricMean(["a", "b"]))
    criterion({"a": torch.tensor(2.0), "b": torch.tensor(4.0)})
    total = criterion({"a": torch.tensor(9.0), "b": None})
    assert total.item() == pytest.approx(3.0)  # half of sqrt(9 * 4)
    assert criterion.weights["a"].item() == pytest.approx(1 / 3)


def test_the_weights_are_those_of_the_losses_averaged_over_ranks():
    scheme, seen = GeometricMean(["a", "b"]), torch.tensor([True, True])
    scheme.observe(Observation(torch.tensor([2.0, 8.0]), torch.zeros(2), seen))
    _, weights = scheme.weigh(torch.tensor([3.0, 8.0]), seen)
    torch.testing.assert_close(weights, torch.tensor([1.0, 0.25]))


def test_a_loss_that_is_not_positive_is_refused_by_name():
    with pytest.raises(ValueError, match=r"must be above 0 for GeometricMean, got \{'b': -1.0\}"):
        GeometricMean(["a", "b"])(torch.tensor([1.0, -1.0]))
