"""Probes on parameters: the norms of terms with forward passes of their own, derivatives included."""

import pytest
import torch
from torch import Tensor, nn

from lossbalance import WeightedLoss
from lossbalance.weighting import Equal, GradBalance
from tests.gradients.networks import CountBackward
from tests.helpers.recorder import Recorder

TERMS = ["residual", "boundary", "data"]


class MagnitudesRecorder(Recorder):
    uses_magnitudes = True


class Squared(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.square() + x.sin()


def network(head: str) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 1)]
    return nn.Sequential(*layers, *([Squared()] if head == "curved" else []))


def laplacian(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.requires_grad_()
    u = net(x)
    (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    second = [torch.autograd.grad(du[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2)]
    return u.squeeze(1), second[0] + second[1]


def losses(nets: dict[str, nn.Module], step: int) -> dict[str, Tensor]:
    """The residual of Helmholtz's equation, called on two sets of points; a boundary; data."""
    generator = torch.Generator().manual_seed(step)
    inner, more, edge = (torch.rand(9, 2, generator=generator) for _ in range(3))
    residuals = [u + u_xx for u, u_xx in (laplacian(nets["residual"], x) for x in (inner, more))]
    return {
        "residual": 100 * sum(residual.square().mean() for residual in residuals),
        "boundary": nets["boundary"](edge).square().mean(),
        "data": (nets["data"](inner.detach()) - 1).square().mean(),
    }


def gradients(net: nn.Module, step: int) -> list[Tensor]:
    """The gradient of each loss by all parameters, by autograd."""
    found = []
    for loss in losses(dict.fromkeys(TERMS, net), step).values():
        parts = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
        found.append(torch.cat([part.flatten() for part in parts]))
    return found


@pytest.mark.parametrize("head", ["linear", "curved"])
def test_norms_and_magnitudes_are_those_of_autograd_by_the_parameters_derivatives_included(head):
    net, criterion = network(head), WeightedLoss(MagnitudesRecorder(TERMS, [0.5, 40.0, 1.0]))
    views = {term: criterion.probe_parameters(term, net) for term in TERMS}
    for step in range(2):
        criterion(losses(views, step)).mul(3).backward()
    criterion(dict.fromkeys(TERMS))
    first, _, second = criterion.weighting.shown
    for shown, step in ((first, 0), (second, 1)):
        expected = gradients(net, step)
        torch.testing.assert_close(shown.norms, torch.stack([g.norm() for g in expected]), rtol=1e-5, atol=0)
        torch.testing.assert_close(shown.largest, torch.stack([g.abs().max() for g in expected]), rtol=1e-5, atol=0)
        means = torch.stack([g.abs().mean() for g in expected])
        torch.testing.assert_close(shown.mean_magnitude, means, rtol=1e-5, atol=0)


def test_gradients_are_those_of_the_weighted_sum():
    net, criterion = network("curved"), WeightedLoss(Recorder(TERMS, [0.5, 40.0, 1.0]))
    views = {term: criterion.probe_parameters(term, net) for term in TERMS}
    criterion(losses(views, 0)).backward()
    weighted = sum(weight * g for weight, g in zip([0.5, 40.0, 1.0], gradients(net, 0), strict=True))
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in net.parameters()]), weighted)


def test_the_first_step_is_balanced_already_and_so_are_those_that_follow_as_by_shared():
    net, probed = network("linear"), WeightedLoss(GradBalance(TERMS, decay=0.0))
    shared = WeightedLoss(GradBalance(TERMS, decay=0.0))
    views = {term: probed.probe_parameters(term, net) for term in TERMS}
    for _ in range(3):
        probed(losses(views, 0)).backward()
        shared(losses(dict.fromkeys(TERMS, net), 0), shared=net.parameters())
        torch.testing.assert_close(probed.weights, shared.weights, rtol=1e-5, atol=0)


def test_one_backward_pass_is_made_however_many_terms_there_are():
    net, criterion = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)), WeightedLoss(GradBalance(TERMS))
    views = {term: criterion.probe_parameters(term, net) for term in TERMS}
    x = torch.rand(5, 2)
    for _ in range(3):
        CountBackward.passes = 0
        criterion({term: CountBackward.apply(view(x)).square().mean() for term, view in views.items()}).backward()
    assert CountBackward.passes == len(TERMS)  # each loss has a forward pass of its own


def test_a_frozen_parameter_stays_out_and_buffers_are_those_of_the_module():
    net, criterion = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1)), WeightedLoss(Equal(["data"]))
    net[1].bias.requires_grad_(False)
    view = criterion.probe_parameters("data", net)
    criterion({"data": view(torch.rand(6, 2)).square().mean()}).backward()
    assert net[0].num_batches_tracked == 1
    assert net[1].bias.grad is None
    assert criterion.last.gradient_shares == {"data": 1}


def test_in_evaluation_and_without_gradients_it_is_the_module():
    net, criterion = nn.Linear(2, 1), WeightedLoss(Equal(["data"]))
    view, x = criterion.probe_parameters("data", net), torch.rand(3, 2)
    with torch.no_grad():
        assert torch.equal(view(x), net(x))
    criterion.eval()
    assert view(x).grad_fn.next_functions[-1][0].next_functions[0][0].variable is net.weight
    assert not criterion.probes.probed


@pytest.mark.parametrize(
    ("term", "module", "error", "message"),
    [
        ("dta", nn.Linear(1, 1), ValueError, r"`term` must be one of .* \(did you mean 'data'\?\)"),
        ("data", "net", TypeError, "`module` must be the module whose parameters are probed, got 'net'"),
        ("data", nn.ReLU(), ValueError, "`module` must have parameters that require a gradient"),
    ],
)
def test_what_cannot_be_probed_is_refused(term, module, error, message):
    with pytest.raises(error, match=message):
        WeightedLoss(Equal(["data"])).probe_parameters(term, module)


def activation_probe(criterion: WeightedLoss, x: Tensor) -> Tensor:
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    (slope,) = torch.autograd.grad(net(criterion.probe("residual", x * 1)).sum(), x, create_graph=True)
    return (slope - 1).square().mean()


def bypassed_probe(criterion: WeightedLoss, x: Tensor) -> Tensor:
    criterion.probe("residual", x)
    return (nn.Linear(1, 1)(x) - 1).square().mean()


@pytest.mark.parametrize(
    ("loss", "why"), [(activation_probe, "on a derivative of what was probed"), (bypassed_probe, "on nothing")]
)
def test_a_probe_that_cannot_see_its_terms_gradient_is_an_error_in_the_first_step(loss, why):
    criterion, x = WeightedLoss(GradBalance(["residual", "other"])), torch.rand(5, 1, requires_grad=True)
    losses = {"residual": loss(criterion, x), "other": criterion.probe("other", x).mean()}
    with pytest.raises(ValueError, match=f"the probes of 'residual' cannot see .* {why}.*criterion.probe_parameters"):
        criterion(losses)


def test_a_derivative_that_another_term_is_made_of_does_not_blind_a_probe():
    criterion, x = WeightedLoss(GradBalance(["real", "penalty"])), torch.rand(5, 1, requires_grad=True)
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    view = criterion.probe_parameters("penalty", net)
    (slope,) = torch.autograd.grad(view(x).sum(), x, create_graph=True)
    criterion({"real": net(criterion.probe("real", x)).mean(), "penalty": slope.square().mean()})


def test_a_gradient_that_is_zero_by_value_is_no_error():
    criterion, x = WeightedLoss(GradBalance(["aux", "late"])), torch.rand(5, 1, requires_grad=True)
    criterion({"aux": criterion.probe("aux", x).mean(), "late": 0.0 * criterion.probe("late", x).mean()})
    assert criterion.weights["late"] == 1
