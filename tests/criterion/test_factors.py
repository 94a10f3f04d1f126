"""Factors on top of every scheme."""

import io
from copy import deepcopy

import pytest
import torch

from lossbalance import WeightedLoss
from lossbalance.penalties import L2
from lossbalance.weighting import Equal, Fixed, GradBalance, Uncertainty
from tests.weighting.test_every_scheme import SCHEMES, TERMS, data, start


@pytest.fixture(params=SCHEMES)
def scheme(request):
    return request.param


def test_a_factor_multiplies_the_weight_and_the_contribution():
    criterion = WeightedLoss(Fixed(TERMS, {"aux": 2.0, "main": 1.0}))
    criterion.set_factor("aux", 0.25)
    losses = {"aux": torch.tensor(8.0, requires_grad=True), "main": torch.tensor(3.0, requires_grad=True)}
    total = criterion(losses)
    total.backward()
    assert total.item() == 0.25 * 2 * 8 + 3
    assert (criterion.weights["aux"].item(), losses["aux"].grad.item()) == (0.5, 0.5)
    assert criterion.last.contributions["aux"] == 4.0
    assert criterion.factors == {"aux": 0.25, "main": 1.0}


@pytest.mark.parametrize("factor", [1e-6, 0.3, 40.0])
def test_under_every_scheme_the_weights_are_the_gradient_of_the_total_and_the_factor_times_those_without(
    scheme, factor
):
    plain, factored = start(scheme, steps=3), start(scheme, steps=3)
    factored.criterion.set_factor("aux", factor)
    losses = factored.losses(*data(3))
    total = factored.criterion(losses)
    gradients = torch.autograd.grad(total, [*losses.values()], retain_graph=True)
    plain.criterion(plain.losses(*data(3)))
    torch.testing.assert_close(torch.stack([*factored.criterion.weights.values()]), torch.stack(gradients))
    expected = [plain.criterion.weights["aux"] * factor, plain.criterion.weights["main"]]
    torch.testing.assert_close([*factored.criterion.weights.values()], expected)


def test_what_a_scheme_learns_does_not_depend_on_a_factor(scheme):
    plain, factored = start(scheme), start(scheme)
    factored.criterion.set_factor("aux", 0.01)
    for training in (plain, factored):
        training.optimizer.param_groups[0]["lr"] = 0.0  # the network stays
        for step in range(6):
            training.step(step)
    for name, value in plain.criterion.weighting.state_dict().items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(factored.criterion.weighting.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_with_a_factor_of_0_a_branch_has_no_backward_pass_and_a_scheme_learns_nothing_of_it(scheme):
    zero, absent = start(scheme, steps=3), start(scheme, steps=3)
    zero.criterion.set_factor("aux", 0.0)
    passes = []
    for step in range(3, 6):
        zero.optimizer.zero_grad(set_to_none=True)
        losses = zero.losses(*data(step))
        zero.outputs["aux"].register_hook(lambda _: passes.append("aux"))
        zero.criterion(losses).backward()
        zero.optimizer.step()
        absent.optimizer.zero_grad(set_to_none=True)
        absent.criterion({**absent.losses(*data(step)), "aux": None}).backward()
        absent.optimizer.step()
    assert passes == []
    assert zero.criterion.last.losses["aux"] == losses["aux"] > 0  # it is shown all the same
    assert zero.criterion.weights["aux"] == 0
    torch.testing.assert_close(zero.trunk.state_dict(), absent.trunk.state_dict(), rtol=0, atol=0)
    for name, value in absent.criterion.weighting.state_dict().items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(zero.criterion.weighting.state_dict()[name], value, rtol=0, atol=0)


def test_a_step_in_which_every_factor_is_0_has_a_gradient_of_0(scheme):
    training = start(scheme, steps=3)
    for term in TERMS:
        training.criterion.set_factor(term, 0.0)
    before = deepcopy(training.heads.state_dict())
    training.optimizer = torch.optim.SGD(training.parameters(), lr=0.1)
    assert training.step(3).isfinite()
    torch.testing.assert_close(training.heads.state_dict(), before, rtol=0, atol=0)


def test_a_term_that_starts_with_a_factor_of_0_is_measured_when_it_comes_in():
    training = start("gradbalance")
    training.criterion.set_factor("aux", 0.0)
    for step in range(3):
        training.step(step)
    training.criterion.set_factor("aux", 1.0)
    training.step(3)
    assert training.criterion.last.gradient_shares["aux"].item() == pytest.approx(0.5, abs=0.1)


def test_factors_are_in_the_state_under_their_names():
    def make(terms):
        return WeightedLoss(Uncertainty(terms), {"l2": L2(0.1)})

    criterion, file = make(["aux", "main"]), io.BytesIO()
    criterion.set_factor("main", 0.1)
    criterion.set_factor("l2", 3.0)
    torch.save(criterion.state_dict(), file)
    file.seek(0)
    other = make(["main", "aux"])
    other.set_factor("aux", 7.0)

    other.load_state_dict(torch.load(file))

    assert other.factors == {"main": 0.1, "aux": 1.0, "l2": 3.0}
    losses = {"aux": torch.tensor(1.0), "main": torch.tensor(2.0)}
    net = torch.nn.Linear(2, 1)
    assert other(losses, module=net).item() == pytest.approx(criterion(losses, module=net).item())
    assert deepcopy(criterion).factors == criterion.factors


@pytest.mark.parametrize("mode", ["loss", "gradient", "decoupled"])
def test_the_factor_of_a_penalty_multiplies_its_strength_in_every_mode(mode):
    nets = []
    for strength, factor in ((0.3, 0.5), (0.15, 1.0)):
        torch.manual_seed(0)
        net = torch.nn.Linear(3, 2)
        criterion = WeightedLoss(Equal(["data"]), {"l2": L2(strength, mode=mode)})
        criterion.set_factor("l2", factor)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        criterion.attach(optimizer, net)
        for _ in range(3):
            optimizer.zero_grad()
            criterion({"data": net(torch.ones(1, 3)).square().mean()}, module=net).backward()
            optimizer.step()
        nets.append(net)
        assert criterion.last.penalties["l2"].item() == pytest.approx(0.15 * net.weight.square().sum().item(), rel=0.5)
    torch.testing.assert_close(nets[0].weight, nets[1].weight)


def test_a_factor_of_0_takes_a_penalty_away_for_the_time_being():
    net, criterion = torch.nn.Linear(3, 2), WeightedLoss(Equal(["data"]), {"l2": L2(1.0)})
    criterion.set_factor("l2", 0.0)
    assert criterion({"data": torch.tensor(2.0)}, module=net).item() == 2.0
    criterion.set_factor("l2", 1.0)
    assert criterion({"data": torch.tensor(2.0)}, module=net).item() > 2.0


def test_a_compiled_step_sees_each_factor():
    torch._dynamo.reset()
    criterion = WeightedLoss(GradBalance(TERMS, decay=0.5))
    criterion.eval()
    compiled = torch.compile(criterion, fullgraph=True, backend="eager")
    losses = {"aux": torch.tensor(2.0), "main": torch.tensor(3.0)}
    for factor in (1.0, 0.5, 0.25, 0.0):
        criterion.set_factor("aux", factor)
        assert compiled(losses).item() == factor * 2 + 3


@pytest.mark.parametrize(
    ("name", "factor", "error", "message"),
    [
        ("axu", 1.0, ValueError, r"`name` must be one of \['aux', 'main'\], got 'axu' \(did you mean 'aux'\?\)"),
        ("aux", -1.0, ValueError, "`factor` must be a number, finite and not negative, got -1.0: it multiplies"),
        ("aux", float("nan"), ValueError, "`factor` must be a number"),
        ("aux", "0.5", TypeError, "`factor` must be a number"),
    ],
)
def test_what_is_no_factor_is_refused(name, factor, error, message):
    with pytest.raises(error, match=message):
        WeightedLoss(Equal(TERMS)).set_factor(name, factor)
