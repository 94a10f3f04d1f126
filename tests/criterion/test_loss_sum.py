"""Weights rescaled so that the weighted losses add up to a number."""

from copy import deepcopy

import pytest
import torch

from lossbalance import WeightedLoss
from lossbalance.weighting import Equal, Fixed, GradBalance, Uncertainty
from tests.weighting.test_every_scheme import Training, data


def row(a, b):
    return {name: None if loss is None else torch.tensor(loss) for name, loss in (("a", a), ("b", b))}


def test_constant_losses_add_up_to_it_from_the_first_step_on():
    criterion = WeightedLoss(Fixed(["a", "b"], {"a": 0.5, "b": 3.0}), loss_sum=7.0)
    for _ in range(3):
        assert criterion(row(2.0, 4.0)).item() == pytest.approx(7.0)
        assert [weight.item() for weight in criterion.weights.values()] == pytest.approx([3.5 / 13, 21 / 13])


def test_the_weighted_losses_add_up_to_it_in_the_mean_over_steps():
    criterion, totals = WeightedLoss(Equal(["a", "b"]), loss_sum=2.0), []
    for step in range(500):
        a, b = torch.rand(2, generator=torch.Generator().manual_seed(step)).tolist()
        totals.append(criterion(row(a, 1000 * b)))
    assert torch.stack(totals).mean().item() == pytest.approx(2.0, rel=0.05)


def test_as_the_losses_fall_the_weights_grow():
    criterion = WeightedLoss(Equal(["a", "b"]), loss_sum=1.0)
    for step in range(1000):
        criterion(row(1.0 if step < 300 else 0.01, 1.0 if step < 300 else 0.01))
    assert criterion.weights["a"].item() == pytest.approx(50.0, rel=0.15)


def test_an_absent_term_changes_no_other_weight_and_no_average_of_its_own():
    criterion = WeightedLoss(Equal(["a", "b"]), loss_sum=1.0)
    criterion(row(1.0, 3.0))
    criterion(row(1.0, None))
    assert [weight.item() for weight in criterion.weights.values()] == pytest.approx([0.25, 0.0])
    assert criterion.scale.average[1].tolist() == pytest.approx([0.01 * 1.99, 0.01])


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_step_that_is_not_finite_leaves_no_trace(broken):
    criterion = WeightedLoss(Equal(["a", "b"]), loss_sum=1.0)
    criterion(row(1.0, 3.0))
    before = deepcopy(criterion.state_dict())
    assert not criterion(row(broken, 3.0)).isfinite()
    torch.testing.assert_close(criterion.state_dict(), before, rtol=0, atol=0)
    assert criterion(row(1.0, 3.0)).item() == pytest.approx(1.0)


@pytest.mark.parametrize("make", [Equal, Uncertainty, GradBalance])
def test_a_resumed_run_goes_on_bit_for_bit_and_weights_are_the_gradient_of_the_total(make):
    def start() -> Training:
        return Training(WeightedLoss(make(["aux", "main"]), loss_sum=3.0))

    straight = start()
    for step in range(4):
        straight.step(step)
    resumed = start().resume(straight.saved())
    for step in range(4, 7):
        assert torch.equal(resumed.step(step), straight.step(step))
    losses = straight.losses(*data(9))
    gradients = torch.autograd.grad(straight.criterion(losses), list(losses.values()))
    torch.testing.assert_close(torch.stack(list(straight.criterion.weights.values())), torch.stack(gradients))


@pytest.mark.parametrize("scheme", [Equal, GradBalance])
def test_a_negative_loss_is_refused_by_name(scheme):
    criterion, x = WeightedLoss(scheme(["a", "b"]), loss_sum=1.0), torch.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match=r"`losses` must be 0 or more for `loss_sum`, got \{'a': -3.0\}"):
        criterion({"a": -3.0 * x.sum(), "b": x.sum()}, shared=x)


def test_a_loss_that_turns_negative_later_moves_nothing_and_is_named_at_the_next_switch_of_mode():
    criterion = WeightedLoss(Equal(["a", "b"]), loss_sum=1.0)
    criterion(row(3.0, 1.0))
    criterion(row(-1e9, 1.0))
    assert criterion.weights["a"].item() == pytest.approx(0.25)
    with pytest.warns(UserWarning, match=r"`losses` must be 0 or more for `loss_sum`, got \{'a': -1"):
        criterion.eval()
    assert not criterion.scale.training


def test_before_anything_was_seen_and_in_eval_nothing_changes():
    criterion = WeightedLoss(Equal(["a", "b"]), loss_sum=1.0).eval()
    assert criterion(row(2.0, 4.0)).item() == 6.0


def test_it_compiles_into_one_graph():
    criterion = WeightedLoss(Equal(["a", "b"]), loss_sum=1.0)
    call = torch.compile(criterion, backend="aot_eager", fullgraph=True)
    for scale in (1.0, 2.0):
        assert call(row(scale, 3 * scale)).isfinite()


def test_two_scales_at_once_and_what_is_no_scale_are_refused():
    with pytest.raises(ValueError, match="`weight_sum` and `loss_sum` are two scales"):
        WeightedLoss(Equal(["a"]), weight_sum=1.0, loss_sum=1.0)
    with pytest.raises(ValueError, match="`loss_sum` must be a positive, finite number or None, got 0"):
        WeightedLoss(Equal(["a"]), loss_sum=0)
