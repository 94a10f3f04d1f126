import math

import pytest
import torch

from lossbalance import WeightedLoss
from lossbalance.weighting import UncertaintySoftmax


def test_weights_are_the_softmax_of_the_inverse_losses():
    scheme = UncertaintySoftmax(["a", "b"], temperature=2.0, scale_free=False)

    total, weights = scheme(torch.tensor([0.25, 0.5]))  # 1 / (T L) = 2 and 1

    e = math.e
    torch.testing.assert_close(weights, torch.tensor([e / (1 + e), 1 / (1 + e)]))
    assert total.item() == pytest.approx((0.25 * e + 0.5) / (1 + e))


def test_the_temperature_has_a_unit_unless_the_scheme_is_scale_free():
    losses = torch.tensor([0.5, 2.0])

    _, paper = UncertaintySoftmax(["a", "b"], 1.0, scale_free=False)(losses)
    _, paper_in_thousandths = UncertaintySoftmax(["a", "b"], 1.0, scale_free=False)(1000 * losses)
    _, free = UncertaintySoftmax(["a", "b"], 1.0)(losses)
    _, free_in_thousandths = UncertaintySoftmax(["a", "b"], 1.0)(1000 * losses)

    assert (paper[0] - paper[1]).item() == pytest.approx(math.tanh(0.75), rel=1e-5)
    assert (paper_in_thousandths[0] - paper_in_thousandths[1]).item() < 1e-3
    torch.testing.assert_close(free, torch.tensor([0.8, 0.2]))
    torch.testing.assert_close(free, free_in_thousandths)


def test_a_scale_free_temperature_goes_from_equal_contributions_to_equal_weights():
    losses = torch.tensor([1e-4, 1.0, 1e6])
    _, weights = UncertaintySoftmax(["a", "b", "c"], 1.0, scale_free=True)(losses)
    torch.testing.assert_close(weights * losses / weights[0] / losses[0], torch.ones(3))
    _, weights = UncertaintySoftmax(["a", "b", "c"], 1e6, scale_free=True)(losses)
    torch.testing.assert_close(weights, torch.full((3,), 1 / 3), rtol=1e-4, atol=0)


@pytest.mark.parametrize("scale_free", [True, False])
def test_weights_are_constants_to_the_backward_pass(scale_free):
    losses = torch.tensor([0.5, 2.0], requires_grad=True)
    total, weights = UncertaintySoftmax(["a", "b"], scale_free=scale_free)(losses)
    total.backward()
    torch.testing.assert_close(losses.grad, weights)


@pytest.mark.parametrize("scale_free", [True, False])
def test_tiny_losses_overflow_nothing(scale_free):
    _, weights = UncertaintySoftmax(["a", "b"], 1e-3, scale_free=scale_free)(torch.tensor([1e-38, 1e-38]))
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.5]))


def test_before_training_the_weights_are_equal_and_in_eval_those_of_the_last_step():
    for scale_free in (True, False):
        criterion = WeightedLoss(UncertaintySoftmax(["a", "b"], scale_free=scale_free)).eval()
        losses = {"a": torch.tensor(1.0), "b": torch.tensor(3.0)}
        assert criterion(losses).item() == 2
        criterion.train()
        trained = criterion(losses)
        criterion.eval()
        assert criterion({"a": torch.tensor(3.0), "b": torch.tensor(1.0)}) > trained


def test_an_absent_term_weighs_nothing_and_is_remembered():
    criterion = WeightedLoss(UncertaintySoftmax(["a", "b"], 1.0))
    criterion({"a": torch.tensor(1.0), "b": torch.tensor(3.0)})
    criterion({"a": torch.tensor(1.0), "b": None})
    assert [weight.item() for weight in criterion.weights.values()] == pytest.approx([0.75, 0.0])


def test_a_step_that_is_not_finite_leaves_no_trace():
    criterion = WeightedLoss(UncertaintySoftmax(["a", "b"]))
    criterion({"a": torch.tensor(1.0), "b": torch.tensor(3.0)})
    before = criterion.weighting.average.clone()
    assert criterion({"a": torch.tensor(torch.nan), "b": torch.tensor(5.0)}).isnan()
    assert torch.equal(criterion.weighting.average, before)


def test_it_compiles_into_one_graph():
    criterion = WeightedLoss(UncertaintySoftmax(["a", "b"], 1.0, decay=0.0))
    call = torch.compile(criterion, backend="aot_eager", fullgraph=True)
    for scale in (1.0, 2.0):
        total = call({"a": torch.tensor(scale, requires_grad=True), "b": torch.tensor(3 * scale)})
        total.backward()
        assert total.item() == pytest.approx(1.5 * scale)


def test_the_scale_free_form_weighs_by_a_running_average():
    scheme = UncertaintySoftmax(["a", "b"], 1.0, decay=0.5)
    scheme(torch.tensor([1.0, 8.0]))

    _, weights = scheme(torch.tensor([4.0, 2.0]))  # averages (1 + 4) / 2 and (8 + 2) / 2

    torch.testing.assert_close(weights, torch.tensor([2 / 3, 1 / 3]))


@pytest.mark.parametrize("scale_free", [True, False])
def test_a_loss_that_turns_negative_breaks_no_step_and_is_named_at_the_next_switch_of_mode(scale_free):
    criterion = WeightedLoss(UncertaintySoftmax(["data", "physics"], scale_free=scale_free))
    criterion({"data": torch.tensor(1.0), "physics": torch.tensor(3.0)})
    before = criterion.weights
    assert criterion({"data": torch.tensor(1.0), "physics": torch.tensor(-0.5)}).isfinite()
    assert criterion.weights == before
    with pytest.raises(ValueError, match=r"must be above 0 for UncertaintySoftmax, got \{'physics': -0.5\}"):
        criterion.eval()


def test_a_loss_that_is_not_positive_is_refused_by_name():
    criterion = WeightedLoss(UncertaintySoftmax(["data", "physics"]))
    with pytest.raises(ValueError, match=r"must be above 0 for UncertaintySoftmax, got \{'physics': 0.0\}"):
        criterion({"data": torch.tensor(1.0), "physics": torch.tensor(0.0)})


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="`temperature` must be a positive, finite number"):
        UncertaintySoftmax(["a"], temperature)
