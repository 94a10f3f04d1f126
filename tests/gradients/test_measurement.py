"""Backward passes that are measured and those that are not: scaled, repeated, checkpointed, differentiated."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from lossbalance import WeightedLoss
from lossbalance.weighting import Equal, GradBalance
from tests.gradients.networks import (
    Linear,
    either_kind,
    losses_and_branch_points,
    measured_after_two_steps,
    recording,
    reveal,
    some_unknown,
    true_norms,
)


@some_unknown
def test_a_scalers_factor_and_the_number_of_accumulated_batches_are_taken_out(weights):
    shown, expected = measured_after_two_steps(recording(weights), lambda total: (total * 65536.0 / 4).backward())
    torch.testing.assert_close(shown, expected, rtol=1e-6, atol=0)


@some_unknown
def test_a_weight_sum_is_taken_out(weights):
    criterion = WeightedLoss(recording(weights).weighting, weight_sum=1.0)
    shown, expected = measured_after_two_steps(criterion, lambda total: total.backward())
    torch.testing.assert_close(shown, expected, rtol=1e-6, atol=0)


@some_unknown
def test_two_backward_passes_of_one_total_measure_the_same(weights):
    def twice(total: Tensor) -> None:
        total.backward(retain_graph=True)
        total.backward()

    shown, expected = measured_after_two_steps(recording(weights), twice)
    torch.testing.assert_close(shown, expected, rtol=1e-6, atol=0)


@some_unknown
@pytest.mark.filterwarnings("ignore:Using backward")
def test_a_backward_pass_that_can_be_differentiated_measures_the_same(weights):
    shown, expected = measured_after_two_steps(recording(weights), lambda total: total.backward(create_graph=True))
    torch.testing.assert_close(shown, expected, rtol=1e-6, atol=0)


@pytest.mark.filterwarnings("ignore:Using backward")
def test_a_differentiable_backward_pass_of_one_term_leaves_its_leaf_in_place():
    criterion = WeightedLoss(Equal(["aux", "main"]))
    for step in range(3):
        x = torch.ones(1, requires_grad=True)
        aux, main = 3 * criterion.probe("aux", x).sum(), criterion.probe("main", x).sum()
        if step == 1:
            aux.backward(create_graph=True)
        criterion({"aux": aux, "main": main}).backward()
        assert criterion.last.gradient_shares["aux"].item() == 0.75


def divided_in_place(total: Tensor, x: Tensor) -> None:
    total /= 4  # as in many a loop that accumulates
    total.backward()


@some_unknown
@pytest.mark.parametrize(
    "differentiate",
    [
        divided_in_place,
        lambda total, x: total.backward(inputs=[x]),
        lambda total, x: torch.autograd.grad(total, x),
        lambda total, x: [torch.autograd.grad(total, x, retain_graph=True), total.backward()],
    ],
)
def test_a_total_is_measured_however_it_is_differentiated(weights, differentiate):
    criterion = recording(weights)
    for _ in range(2):
        x = torch.ones(2, requires_grad=True)
        losses = {term: (criterion.probe(term, x) * torch.tensor([3.0, 4.0])).sum() for term in ("aux", "main")}
        differentiate(criterion(dict.fromkeys(criterion.terms) | losses), x)
    torch.testing.assert_close(reveal(criterion), torch.tensor([5.0, 5.0]))


@either_kind
@pytest.mark.parametrize("frozen", [False, True])
def test_what_does_not_come_from_the_total_is_not_measured(scheme, frozen):
    criterion, weight = WeightedLoss(scheme(["aux", "main"])), torch.ones(1, requires_grad=True)
    x, y = torch.ones(1, requires_grad=not frozen), torch.ones(1, requires_grad=True)
    losses = {
        "aux": 3 * (criterion.probe("aux", x) * weight).sum(),
        "main": (criterion.probe("main", y) * weight).sum(),
    }
    total = criterion(losses)
    (losses["aux"] + losses["main"]).backward(retain_graph=True)
    assert math.isnan(criterion.last.gradient_shares["aux"]) or scheme is GradBalance  # which knows them ahead
    (total + losses["main"].detach()).backward()
    torch.testing.assert_close(criterion.last.gradient_shares["aux"].item(), 0.75 if scheme is Equal else 0.5)


def test_a_step_without_backward_measures_nothing():
    criterion = recording()
    for _ in range(2):
        x = torch.ones(1, requires_grad=True)
        criterion({"aux": criterion.probe("aux", x).sum(), "main": criterion.probe("main", x).sum()})
    criterion({"aux": None, "main": None})
    assert criterion.weighting.shown[-1].seen.tolist() == [False, False]


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_measures_the_same(use_reentrant):
    torch.manual_seed(0)
    net, plain, saving = Linear(), recording(), recording()
    x = net.example().requires_grad_()  # which reentrant checkpoints ask for
    plain(losses_and_branch_points(net, x, plain.probe, nested=True)[0]).backward()
    plain(losses_and_branch_points(net, x, plain.probe, nested=True)[0]).backward()

    def branches(x: Tensor) -> tuple[Tensor, Tensor]:
        h = net.first(x)
        return net.aux(saving.probe("aux", h)), net.main(saving.probe("main", net.second(h)))

    saving.probes.known.update(["aux", "main"])  # reentrant checkpoints refuse `torch.autograd.grad`
    saving.probes.probed.update(["aux", "main"])
    for _ in range(2):
        aux, main = checkpoint(branches, x, use_reentrant=use_reentrant)
        saving({"aux": 300 * aux.square().mean(), "main": main.tanh().mean()}).backward()
    torch.testing.assert_close(reveal(saving), reveal(plain))


def test_a_checkpoint_that_keeps_the_results_of_some_operations_measures_the_same():
    torch.manual_seed(0)
    net, plain, saving = Linear(), WeightedLoss(Equal(["aux", "main"])), WeightedLoss(Equal(["aux", "main"]))
    x = net.example()

    def losses(x: Tensor, probe: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor]:
        return losses_and_branch_points(net, x, probe, nested=True)[0]

    contexts = partial(create_selective_checkpoint_contexts, [torch.ops.aten.addmm.default])
    plain(losses(x, plain.probe)).backward()
    saving(checkpoint(losses, x, saving.probe, use_reentrant=False, context_fn=contexts)).backward()
    torch.testing.assert_close(saving.last.gradient_shares, plain.last.gradient_shares)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_norms_are_taken_in_single_precision(dtype):
    torch.manual_seed(0)
    net, criterion = Linear(), recording(weights=(1.0, 1.0))
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0, enabled=dtype == torch.float16)
    x = net.example()
    for _ in range(2):
        with torch.autocast("cpu", dtype=dtype):
            losses, points = losses_and_branch_points(net, x, criterion.probe, nested=True)
            total = criterion({term: loss.float() for term, loss in losses.items()})
        scaler.scale(total).backward()
    with torch.autocast("cpu", enabled=False):
        losses, points = losses_and_branch_points(net, x, lambda _, x: x, nested=True)
    shown = reveal(criterion)
    assert shown.dtype == torch.float32
    torch.testing.assert_close(shown, true_norms(losses, points), rtol=0.05, atol=0)


def test_a_derivative_on_the_way_to_a_loss_is_not_measured_and_stays_what_it_was():
    criterion = WeightedLoss(Equal(["residual", "boundary"]))
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    x = torch.linspace(0, 1, 5).unsqueeze(1).requires_grad_()
    u = net(criterion.probe("residual", x))
    (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    total = criterion({"residual": (du - 1).square().mean(), "boundary": net(criterion.probe("boundary", x)).mean()})
    total.backward()
    plain = net(x)
    (expected,) = torch.autograd.grad(plain.sum(), x, create_graph=True)
    torch.testing.assert_close(du, expected)


def test_where_no_gradient_arrives_at_a_probe_none_is_handed_on():
    criterion, trunk, critic = WeightedLoss(Equal(["penalty"])), nn.Conv1d(1, 4, 3), nn.Conv1d(4, 1, 3)
    x = torch.randn(2, 1, 8, requires_grad=True)
    (slope,) = torch.autograd.grad(critic(criterion.probe("penalty", trunk(x))).sum(), x, create_graph=True)
    criterion({"penalty": slope.square().mean()}).backward()
    assert trunk.weight.grad is not None
    assert trunk.bias.grad is None  # as without the probe: zeros would let weight decay and momentum act on it
