from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lossbalance.conflict import MGDA, PCGrad
from lossbalance.gradients.branch import Branches
from lossbalance.gradients.probes import Probes
from lossbalance.gradients.products import cosines, multiply

TERMS = ["aux", "main"]
X = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Two heads on one layer, which are pulled in different directions."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.trunk = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
            self.heads = nn.ModuleDict({term: nn.Linear(4, 1) for term in TERMS})

    def losses(self, h: dict[str, Tensor]) -> dict[str, Tensor]:
        aux, main = (self.heads[term](h[term]) for term in TERMS)
        return {"aux": (aux - 2).square().mean(), "main": 3 * (main - 1).square().mean()}

    def gradient(self) -> Tensor:
        return torch.cat([parameter.grad.flatten() for parameter in self.trunk.parameters()])


def plain(which: tuple[str, ...] = ("aux", "main")) -> Net:
    net = Net()
    losses = net.losses(dict.fromkeys(TERMS, net.trunk(X)))
    sum(losses[term] for term in which).backward()
    return net


def branched(aggregate: Callable[[Tensor], Tensor] | None, factor: float = 1.0) -> tuple[Net, Branches]:
    net, branches = Net(), Branches(Probes(TERMS))
    losses = net.losses(branches.split(net.trunk(X), aggregate))
    (factor * branches.close(sum(losses.values()))).backward()
    return net, branches


def gradients_at_the_branch() -> Tensor:
    net = Net()
    h = net.trunk(X)
    losses = net.losses(dict.fromkeys(TERMS, h))
    return torch.stack([torch.autograd.grad(losses[term], h, retain_graph=True)[0].flatten() for term in TERMS])


def test_without_an_aggregator_all_gradients_are_those_of_the_plain_sum():
    net, expected = branched(None)[0], plain()
    for ours, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0)


def test_the_trunk_gets_the_gradients_by_their_multipliers_and_heads_keep_their_own():
    multipliers = torch.tensor([3.0, -0.5])
    net = branched(lambda _: multipliers)[0]
    expected = 3 * plain(("aux",)).gradient() - 0.5 * plain(("main",)).gradient()
    torch.testing.assert_close(net.gradient(), expected)
    for ours, theirs in zip(net.heads.parameters(), plain().heads.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0)


def test_the_matrix_has_the_inner_products_of_the_gradients_and_their_cosines():
    rows = gradients_at_the_branch()
    products = branched(PCGrad())[1].products()
    torch.testing.assert_close(products, rows @ rows.T)
    cosine = torch.cosine_similarity(rows[0], rows[1], dim=0)
    assert cosine < 0
    assert list(cosines(products, TERMS)) == [("aux", "main")]
    torch.testing.assert_close(cosines(products, TERMS)["aux", "main"], cosine)


def test_a_scaled_total_has_a_scaled_gradient():
    torch.testing.assert_close(branched(MGDA(), factor=1024.0)[0].gradient(), 1024 * branched(MGDA())[0].gradient())


def test_the_trunk_is_gone_through_once():
    net, branches, passes = Net(), Branches(Probes(TERMS)), Counter()
    h = net.trunk(X)
    h.register_hook(lambda _: passes.update(["h"]))
    branches.close(sum(net.losses(branches.split(h, PCGrad())).values())).backward()
    assert passes == {"h": 1}


def test_an_absent_term_leaves_the_others_gradient():
    net, branches = Net(), Branches(Probes(TERMS))
    losses = net.losses(branches.split(net.trunk(X), MGDA()))
    branches.close(losses["main"]).backward()
    torch.testing.assert_close(net.gradient(), plain(("main",)).gradient())
    assert net.heads["aux"].weight.grad is None
    assert branches.products()[0].tolist() == [0.0, 0.0]


def test_a_step_that_is_not_finite_moves_no_state_and_is_the_plain_sum():
    net, branches, aggregator = Net(), Branches(Probes(TERMS)), PCGrad()
    losses = net.losses(branches.split(net.trunk(X), aggregator))
    branches.close(losses["aux"] * torch.nan + losses["main"]).backward()
    assert net.gradient().isnan().all()
    assert aggregator.draw == PCGrad().draw


@pytest.mark.parametrize("outside", [True, False])
def test_a_derivative_on_the_way_to_a_loss_gets_the_plain_sum(outside):
    """Of one term, or of what the loss is made of."""
    net, branches = Net(), Branches(Probes(TERMS))
    x = X.clone().requires_grad_()
    h = branches.split(net.trunk(x), lambda _: torch.tensor([3.0, -0.5]))
    value = net.losses(h)["aux"] if outside else net.heads["aux"](h["aux"]).sum()
    (ours,) = torch.autograd.grad(value, x, create_graph=True)
    expected = Net()
    h = dict.fromkeys(TERMS, expected.trunk(x))
    value = expected.losses(h)["aux"] if outside else expected.heads["aux"](h["aux"]).sum()
    (theirs,) = torch.autograd.grad(value, x, create_graph=True)
    torch.testing.assert_close(ours, theirs)
    ours.square().sum().backward()  # which is differentiable once more
    theirs.square().sum().backward()
    torch.testing.assert_close(net.gradient(), expected.gradient())


@pytest.mark.parametrize("part", ["trunk", "heads"])
def test_what_a_checkpoint_runs_again_is_combined_once(part):
    net, branches = Net(), Branches(Probes(TERMS))
    trunk = net.trunk if part == "heads" else (lambda x: checkpoint(net.trunk, x, use_reentrant=False))

    def tail(h: Tensor) -> Tensor:
        return sum(net.losses(branches.split(h, PCGrad())).values())

    total = checkpoint(tail, trunk(X), use_reentrant=False) if part == "heads" else tail(trunk(X))
    branches.close(total).backward()
    expected, other = branched(PCGrad())
    torch.testing.assert_close(net.gradient(), expected.gradient())
    torch.testing.assert_close(branches.products(), other.products())


def test_two_branches_of_one_step_add_up_in_the_matrix():
    net, branches = Net(), Branches(Probes(TERMS))
    total = sum(sum(net.losses(branches.split(net.trunk(X), PCGrad())).values()) for _ in range(2))
    branches.close(total).backward()
    torch.testing.assert_close(branches.products(), 2 * branched(PCGrad())[1].products())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_activations_are_multiplied_in_single_precision(dtype):
    net, branches = Net(), Branches(Probes(TERMS))
    h = net.trunk(X).to(dtype)
    parts = branches.split(h, PCGrad())
    assert parts["aux"].dtype == dtype
    losses = net.losses({term: part.float() for term, part in parts.items()})
    (2.0**14 * branches.close(sum(losses.values()))).backward()
    expected, _ = branched(PCGrad())
    torch.testing.assert_close(net.gradient() / 2**14, expected.gradient(), rtol=0.02, atol=0.02)
    assert branches.products().dtype == torch.float32
    assert branches.products().isfinite().all()


def test_a_long_gradient_loses_no_digits():
    rows = torch.full((2, 1_000_003), 1e-3)
    torch.testing.assert_close(multiply(rows), torch.full((2, 2), 1.000003), rtol=1e-5, atol=0)


def test_a_backward_pass_under_autocast_multiplies_in_single_precision():
    rows = torch.randn(2, 100)
    with torch.autocast("cpu", torch.bfloat16):
        assert multiply(rows).dtype == torch.float32


def test_evaluation_and_inference_take_the_activation_as_it_is():
    h = torch.randn(3, requires_grad=True)
    with torch.no_grad():
        assert Branches(Probes(TERMS)).split(h, None)["aux"] is h
    assert Branches(Probes(TERMS).eval()).split(h, None)["aux"] is h


def test_what_a_branch_returns_cannot_be_changed_in_place():
    parts = Branches(Probes(TERMS)).split(Net().trunk(X), None)
    with pytest.raises(RuntimeError, match="modified inplace"):
        parts["aux"].relu_()


def views(
    aggregate: Callable[[Tensor], Tensor] | None,
) -> tuple[nn.Module, dict[str, Callable[[Tensor], Tensor]], Branches]:
    net, branches = Net().trunk, Branches(Probes(TERMS))
    return net, branches.split_parameters(net, aggregate), branches


def own_losses(run: dict[str, Callable[[Tensor], Tensor]]) -> Tensor:
    """The terms have forward passes of their own, one of them two, and one a derivative."""
    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(run["aux"](x).sum(), x, create_graph=True)
    return torch.stack([slope.square().sum() + run["aux"](X).sum(), (run["main"](2 * X) - 1).square().sum()])


def test_at_the_parameters_each_gets_its_gradients_by_their_multipliers():
    net, run, branches = views(lambda _: torch.tensor([2.0, -1.0]))
    branches.close(own_losses(run).sum()).backward()
    expected = Net().trunk
    parameters = list(expected.parameters())
    losses = own_losses(dict.fromkeys(TERMS, expected))
    aux, main = (torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses)
    rows = torch.stack([torch.cat([g.flatten() for g in grads]) for grads in (aux, main)])
    torch.testing.assert_close(branches.products(), rows @ rows.T)
    for parameter, a, b in zip(net.parameters(), aux, main, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * a - b)


def test_parameters_are_seen_anew_in_each_step():
    net, run, branches = views(PCGrad())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        before = [parameter.clone() for parameter in net.parameters()]
        optimizer.zero_grad()
        branches.close(own_losses(run).sum()).backward()
        optimizer.step()
        assert not any(torch.equal(*pair) for pair in zip(net.parameters(), before, strict=True))


def test_frozen_parameters_stay_as_they_are():
    net, run, branches = views(MGDA())
    net[0].bias.requires_grad_(False)
    branches.close(own_losses(run).sum()).backward()
    assert net[0].bias.grad is None
    assert net[0].weight.grad is not None


@pytest.mark.parametrize("at_parameters", [False, True])
def test_it_compiles_into_one_graph(at_parameters):
    torch._dynamo.reset()

    def prepare() -> tuple[Net, Branches, Callable[[Tensor], Tensor], PCGrad]:
        net, branches, aggregator = Net(), Branches(Probes(TERMS)), PCGrad()
        run = branches.split_parameters(net.trunk, aggregator)

        def step(x: Tensor) -> Tensor:
            h = {t: run[t](x) for t in TERMS} if at_parameters else branches.split(net.trunk(x), aggregator)
            return branches.close(sum(net.losses(h).values()))

        return net, branches, step, aggregator

    net, branches, step, aggregator = prepare()
    other, others, plain_step, _ = prepare()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for factor in (1, 2):
        net.zero_grad()
        other.zero_grad()
        compiled(factor * X).backward()
        plain_step(factor * X).backward()
        torch.testing.assert_close(net.gradient(), other.gradient())
        torch.testing.assert_close(branches.products(), others.products())
    assert aggregator.draw != PCGrad().draw
