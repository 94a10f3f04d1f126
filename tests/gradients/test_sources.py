"""Norms of the first step, of tensors that are shared, and the messages where there is no source of norms."""

import pytest
import torch
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.weighting import Equal, GradBalance, GradNorm
from tests.gradients.networks import (
    CountBackward,
    Linear,
    losses_and_branch_points,
    recording,
    true_norms,
)


def test_a_scheme_that_takes_the_place_of_another_is_balanced_from_its_first_step_on():
    criterion, x = WeightedLoss(Equal(["aux", "main"])), torch.ones(1, requires_grad=True)
    for scheme in (Equal, Equal, GradBalance):
        criterion.weighting = scheme(["aux", "main"])
        losses = {"aux": 300 * criterion.probe("aux", x).sum(), "main": criterion.probe("main", x).sum()}
        criterion(losses).backward()
    torch.testing.assert_close(criterion.last.gradient_shares["aux"], torch.tensor(0.5))


def test_a_total_that_needs_no_gradient_is_left_without():
    criterion = WeightedLoss(Equal(["aux", "main"]))
    criterion.probe("aux", torch.ones(1, requires_grad=True))
    assert not criterion({"aux": torch.tensor(1.0), "main": torch.tensor(1.0)}).requires_grad


@pytest.mark.parametrize("scheme", [GradBalance, GradNorm])
@pytest.mark.parametrize("count", [2, 8, 32])
def test_the_backward_pass_of_the_trunk_runs_once_a_step_whatever_the_number_of_terms(scheme, count):
    terms = [f"task_{i}" for i in range(count)]
    criterion = WeightedLoss(scheme(terms))
    trunk, heads = nn.Linear(4, 4), nn.ModuleList(nn.Linear(4, 1) for _ in terms)
    CountBackward.passes = 0
    for step in range(1, 4):
        h = CountBackward.apply(trunk(torch.randn(8, 4)))
        losses = {term: head(criterion.probe(term, h)).square().mean() for term, head in zip(terms, heads, strict=True)}
        criterion(losses).backward()
        assert CountBackward.passes == step  # also at the first step, whose own passes end at the probes


def test_the_first_step_is_balanced_already():
    net, criterion = Linear(), WeightedLoss(GradBalance(["aux", "main"]))
    losses, points = losses_and_branch_points(net, net.example(), criterion.probe, nested=True)
    norms = true_norms(losses, points)
    criterion(losses).backward()
    weights = torch.stack(list(criterion.weights.values()))
    torch.testing.assert_close(weights * norms, (weights * norms).mean().expand(2))


def test_the_first_step_in_which_a_term_appears_is_balanced_already():
    net, criterion = Linear(), WeightedLoss(GradBalance(["aux", "main"]))
    x = net.example()
    for aux in (False, False, True):
        losses, points = losses_and_branch_points(net, x, criterion.probe, nested=True)
        norms = true_norms(losses, points)
        criterion(losses if aux else {**losses, "aux": None}).backward()
    weights = torch.stack(list(criterion.weights.values()))
    torch.testing.assert_close(weights * norms, (weights * norms).mean().expand(2))


def test_small_gradients_of_fp16_activations_are_measured_ahead_all_the_same():
    criterion = recording(weights=(1.0, 1.0))
    x = torch.ones(4, dtype=torch.float16, requires_grad=True)
    aux = criterion.probe("aux", x).float().sum() * 1e-8  # whose gradient vanishes in fp16
    criterion({"aux": aux, "main": criterion.probe("main", x).float().sum()})
    torch.testing.assert_close(criterion.weighting.shown[-1].norms, torch.tensor([2e-8, 2.0]), rtol=1e-2, atol=0)


def test_shared_takes_the_norms_of_this_very_step_with_respect_to_what_is_given():
    torch.manual_seed(0)
    net, criterion = (
        nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)),
        WeightedLoss(GradBalance(["r", "b"], decay=0.0)),
    )
    for _ in range(2):
        x = torch.rand(6, 1, requires_grad=True)
        (du,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        losses = {"r": 1e6 * (du - 1).square().mean(), "b": net(torch.zeros(1, 1)).square().mean()}
        grads = [
            torch.autograd.grad(loss, net.parameters(), retain_graph=True, allow_unused=True)
            for loss in losses.values()
        ]
        norms = torch.stack([torch.cat([g.flatten() for g in grad if g is not None]).norm() for grad in grads])
        criterion(losses, shared=net.parameters()).backward()
        weights = torch.stack(list(criterion.weights.values()))
        torch.testing.assert_close(weights * norms, (weights * norms).mean().expand(2))
        shares = torch.stack(list(criterion.last.gradient_shares.values()))
        torch.testing.assert_close(shares, torch.tensor([0.5, 0.5]))


def test_the_share_of_a_term_without_probe_is_not_known():
    criterion, x = WeightedLoss(Equal(["data", "other"])), torch.ones(3, requires_grad=True)
    criterion({"data": criterion.probe("data", x).sum(), "other": x.sum()}).backward()
    shares = criterion.last.gradient_shares
    assert shares["data"] == 1.0
    assert shares["other"].isnan()


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="`shared` must be one or more tensors that require a gradient"):
        recording()({"aux": torch.tensor(1.0), "main": torch.tensor(1.0)}, shared=torch.ones(2))


def test_a_gradient_scheme_without_probe_or_shared_names_both_cures_at_the_first_step():
    criterion = WeightedLoss(GradNorm(["aux", "main"]))
    message = r"GradNorm needs the gradients of \['aux', 'main'\], and found no probe.*criterion.probe.*`shared=`"
    with pytest.raises(ValueError, match=message):
        criterion({"aux": torch.tensor(1.0, requires_grad=True), "main": torch.tensor(1.0, requires_grad=True)})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda c: c.probe("axu", torch.ones(1)), ValueError, r"`term` must be one of .* \(did you mean 'aux'\?\)"),
        (lambda c: c.probe("aux", torch.ones(1, dtype=torch.long)), TypeError, "`x` must be an activation in floating"),
        (lambda c: c.probe("aux", torch.ones(1, device="meta")), ValueError, "`x` is on meta, the criterion on cpu"),
        (lambda c: c.probe_inputs({"mian": nn.Identity()}), ValueError, r"`modules` .* \(did you mean 'main'\?\)"),
    ],
)
def test_a_wrong_probe_is_answered_with_its_cure(call, error, message):
    with pytest.raises(error, match=message):
        call(recording())
