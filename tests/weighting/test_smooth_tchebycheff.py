import pytest
import torch
from torchjd import scalarization

from lossbalance import WeightedLoss
from lossbalance.weighting import SmoothTchebycheff


def test_it_equals_an_independent_implementation_in_value_and_gradient():
    preferences, ideal = {"a": 0.2, "b": 1.5}, {"a": -1.0, "b": 0.5}
    losses = torch.tensor([3.0, 0.9], requires_grad=True)
    copy = losses.detach().clone().requires_grad_()
    total, weights = SmoothTchebycheff(["a", "b"], 0.3, preferences, ideal)(losses)
    reference = scalarization.STCH(0.3, torch.tensor([0.2, 1.5]), torch.tensor([-1.0, 0.5]))(copy)
    total.backward()
    reference.backward()
    torch.testing.assert_close([total, losses.grad, weights], [reference, copy.grad, copy.grad])


def test_from_the_largest_loss_alone_to_the_preferences():
    losses = torch.tensor([3.0, 1.0])
    torch.testing.assert_close(SmoothTchebycheff(["a", "b"], 1e-3)(losses)[1], torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(SmoothTchebycheff(["a", "b"], 1e6)(losses)[1], torch.tensor([0.25, 0.25]))


def test_an_absent_term_stands_at_its_last_loss():
    criterion = WeightedLoss(SmoothTchebycheff(["a", "b"], preferences={"a": 1.0, "b": 1.0}))
    criterion({"a": torch.tensor(0.0), "b": torch.tensor(2.0)})
    criterion({"a": torch.tensor(2.0), "b": None})
    assert [weight.item() for weight in criterion.weights.values()] == [0.5, 0.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mu": 0.0}, "`mu` must be a positive, finite number, got 0.0"),
        ({"preferences": {"a": 1.0}}, r"`preferences` must name each term .* missing \['b'\]"),
        ({"preferences": {"a": 1.0, "b": -1.0}}, r"`preferences\['b'\]` must be a positive, finite number, got -1.0"),
        ({"ideal": {"a": 1.0, "b": float("nan")}}, r"`ideal\['b'\]` must be a finite number, got nan"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SmoothTchebycheff(["a", "b"], **settings)
