import math

import pytest
import torch
from torch import Tensor, nn

from lossbalance.weighting import GradNorm, Observation


def observe(scheme: GradNorm, losses: list[float], norms: list[float], seen: list[bool] | None = None) -> list[float]:
    row, mask = torch.tensor(losses), torch.tensor(seen or [True] * len(losses))
    scheme.observe(Observation(row, torch.tensor(norms).where(mask, 0.0), mask))
    return scheme(torch.ones_like(row))[1].tolist()


def double_backward_slope(
    weights: Tensor, losses: Tensor, first: Tensor, h: Tensor, parameter: Tensor, force: float
) -> Tensor:
    """The derivative of L_grad by the weights as the paper's code takes it: through the norms' own graph."""
    weights = weights.clone().requires_grad_()
    norms = torch.stack(
        [
            torch.autograd.grad(w * loss, parameter, create_graph=True)[0].norm()
            for w, loss in zip(weights, losses, strict=True)
        ]
    )
    rate = (losses / first).detach()
    target = (norms.mean() * (rate / rate.mean()) ** force).detach()
    return torch.autograd.grad((norms - target).abs().sum(), weights)[0]


@pytest.mark.parametrize("force", [0.0, 0.12, 1.5])
def test_the_closed_form_equals_the_double_backward_pass(force):
    torch.manual_seed(0)
    trunk, heads = nn.Linear(4, 6), nn.ModuleList(nn.Linear(6, 1) for _ in range(3))
    h = trunk(torch.randn(16, 4)).tanh()
    losses = torch.stack([10.0**i * head(h).square().mean() for i, head in enumerate(heads)])
    scheme = GradNorm(["a", "b", "c"], restoring_force=force)
    scheme.weight.copy_(torch.tensor([2.0, 0.9, 0.1]))
    scheme.first_loss.copy_(torch.tensor([0.5, 4.0, 90.0]))
    norms = torch.stack([torch.autograd.grad(loss, trunk.weight, retain_graph=True)[0].norm() for loss in losses])

    slope, _ = scheme.slope(losses.detach(), norms)

    expected = double_backward_slope(scheme.weight, losses, scheme.first_loss, h, trunk.weight, force)
    torch.testing.assert_close(slope, expected)


def test_a_step_by_hand():
    scheme = GradNorm(["aux", "main"], restoring_force=0.0, lr=0.1, initial="equal")
    observe(scheme, [1.0, 1.0], [3.0, 1.0])

    # G = (3, 1), mean 2: log w moves by -0.1 * 3/2 and by +0.1 * 1/2
    weights = observe(scheme, [1.0, 1.0], [3.0, 1.0])

    moved = [math.exp(-0.15), math.exp(0.05)]
    assert weights == pytest.approx([2 * weight / sum(moved) for weight in moved])


def test_the_first_norms_balance_the_weights():
    assert observe(GradNorm(["aux", "main"]), [1.0, 1.0], [1000.0, 1.0]) == pytest.approx([2 / 1001, 2000 / 1001])


def test_the_papers_start_is_equal():
    assert observe(GradNorm(["aux", "main"], initial="equal"), [1.0, 1.0], [1000.0, 1.0]) == [1.0, 1.0]


def test_a_term_that_trains_slowly_gets_the_larger_gradient():
    scheme = GradNorm(["slow", "fast"], restoring_force=1.0)
    for _ in range(5):
        observe(scheme, [1.0, 1.0], [1.0, 1.0])
    for _ in range(200):
        slow, fast = observe(scheme, [1.0, 0.5], [1.0, 1.0])  # targets 4/3 and 2/3 of the mean
    assert slow / fast == pytest.approx(2.0, rel=0.1)


def test_from_equal_weights_gradients_a_thousand_apart_come_together():
    scheme = GradNorm(["aux", "main"], initial="equal")
    for _ in range(300):
        aux, main = observe(scheme, [1.0, 1.0], [1000.0, 1.0])
    assert 1000 * aux / main == pytest.approx(1.0, rel=0.1)


def test_an_absent_term_keeps_its_weight_relative_to_none_and_the_others_go_on():
    scheme = GradNorm(["a", "b", "c"], restoring_force=0.0)
    observe(scheme, [1.0] * 3, [1.0] * 3)
    for _ in range(100):
        weights = observe(scheme, [0.0, 1.0, 1.0], [math.nan, 2.0, 1.0], seen=[False, True, True])
    assert weights[2] / weights[1] == pytest.approx(2.0, rel=0.1)
    assert sum(weights) == pytest.approx(3)


def test_nothing_seen_changes_nothing():
    scheme = GradNorm(["aux", "main"])
    before = observe(scheme, [1.0, 1.0], [5.0, 1.0])
    assert observe(scheme, [math.nan] * 2, [math.nan] * 2, seen=[False, False]) == before


def test_the_first_losses_are_averaged():
    scheme = GradNorm(["aux", "main"])
    for aux in (1.0, 2.0, 3.0, 4.0, 5.0, 600.0):
        observe(scheme, [aux, 1.0], [1.0, 1.0])
    assert scheme.first_loss.tolist() == pytest.approx([3.0, 1.0])


def test_weights_stay_positive_and_add_up_to_their_number_whatever_comes():
    torch.manual_seed(0)
    scheme = GradNorm(["a", "b", "c"], lr=10.0)
    for _ in range(200):
        weights = observe(scheme, torch.randn(3).exp().tolist(), (10 * torch.randn(3)).exp().tolist())
        assert min(weights) > 0
        assert sum(weights) == pytest.approx(3)


def test_it_starts_from_weights_tuned_by_hand_rescaled_to_their_number():
    scheme = GradNorm(["aux", "main"], restoring_force=0.0, lr=0.1, initial={"aux": 1.0, "main": 3.0})
    assert scheme(torch.ones(2))[1].tolist() == [0.5, 1.5]

    weights = observe(scheme, [1.0, 1.0], [3.0, 1.0])  # G = (1.5, 1.5): at its target

    assert weights == pytest.approx([0.5, 1.5])


def test_a_negative_loss_is_refused_by_name():
    scheme = GradNorm(["likelihood", "main"])
    with pytest.raises(ValueError, match=r"must be 0 or more for GradNorm, got \{'likelihood': -2.0\}"):
        observe(scheme, [-2.0, 1.0], [1.0, 1.0])


def test_a_loss_that_turns_negative_moves_nothing_and_is_named_at_the_next_switch_of_mode():
    scheme = GradNorm(["likelihood", "main"])
    before = observe(scheme, [1.0, 1.0], [2.0, 1.0])
    for _ in range(50):
        assert observe(scheme, [-2.0, 1.0], [2.0, 1.0]) == pytest.approx(before)
    with pytest.raises(ValueError, match=r"got \{'likelihood': -2.0\}"):
        scheme.eval()


def test_a_term_that_comes_later_starts_at_the_mean_gradient_of_the_others():
    scheme = GradNorm(["a", "b", "late"], restoring_force=0.0)
    observe(scheme, [1.0] * 3, [2.0, 1.0, 0.0])
    weights = observe(scheme, [1.0] * 3, [2.0, 1.0, 10.0])
    assert [weight * norm for weight, norm in zip(weights, [2.0, 1.0, 10.0], strict=True)] == pytest.approx([1.875] * 3)


def test_a_loss_of_zero_is_as_good_as_trained():
    scheme = GradNorm(["solved", "main"], restoring_force=1.0)
    for _ in range(5):
        observe(scheme, [1.0, 1.0], [1.0, 1.0])
    solved, main = observe(scheme, [0.0, 1.0], [1.0, 1.0])
    assert solved < main
    scheme.eval()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"restoring_force": -1.0}, "`restoring_force` must be a number, finite and not negative, got -1.0"),
        ({"initial": {"aux": 1.0}}, r"`initial` must name each term of .* missing \['main'\]"),
        ({"initial": {"aux": 1.0, "main": 0.0}}, r"`initial\['main'\]` must be a positive, finite number, got 0.0"),
        ({"lr": 0}, "`lr` must be a positive, finite number, got 0"),
        ({"initial": "balance"}, r"`initial` must be one of .*, got 'balance' \(did you mean 'balanced'\?\)"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GradNorm(["aux", "main"], **settings)
