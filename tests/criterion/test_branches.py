"""Conflicts settled at the branch, by the criterion."""

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lossbalance import WeightedLoss
from lossbalance.conflict import MGDA, Aggregator, PCGrad
from lossbalance.penalties import L2
from lossbalance.weighting import Alpha, Equal, GradBalance, LRAnnealing, Uncertainty, Weighting
from tests.helpers.compiler import skip_where_the_compiler_cannot_differentiate

TERMS = ["a", "b", "c"]
X = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Three heads on one layer, which are pulled in different directions."""

    def __init__(self, weighting: Weighting | None = None, conflict: Aggregator | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.trunk = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
            self.heads = nn.ModuleDict({term: nn.Linear(4, 1) for term in TERMS})
        self.criterion = WeightedLoss(weighting or Equal(TERMS), conflict=conflict)

    def losses(self, x: Tensor) -> dict[str, Tensor | None]:
        h = self.criterion.branch(self.trunk(x))
        targets = {"a": x[:, :1], "b": -2 * x[:, :1], "c": 5 * x[:, 1:2]}
        return {term: (self.heads[term](h[term]) - targets[term]).square().mean() for term in TERMS}

    def gradient(self) -> Tensor:
        return torch.cat([parameter.grad.flatten() for parameter in self.trunk.parameters()])


def steps(net: Net, numbers: range) -> list[list[float]]:
    """Trains by Adam, in steps of which some lack a term or are not finite, and returns the weights of the trunk."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    course = []
    for number in numbers:
        optimizer.zero_grad()
        losses = net.losses(torch.randn(6, 3, generator=torch.Generator().manual_seed(number)))
        total = net.criterion({**losses, **({"b": None} if number % 3 == 1 else {})})
        total.backward()
        optimizer.step()
        course.append([parameter.tolist() for parameter in net.trunk.parameters()])
    return course


@pytest.mark.parametrize("scheme", [lambda: Equal(TERMS), lambda: Alpha(TERMS, 0.2), lambda: GradBalance(TERMS)])
def test_the_gradients_that_are_combined_are_the_weighted_ones(scheme):
    class Twice(Aggregator):
        def combine(self, gramian: Tensor, present: Tensor, tolerance: float) -> Tensor:
            return torch.tensor([2.0, 1.0, -1.0], dtype=gramian.dtype)

    net, plain = Net(scheme(), Twice()), Net(scheme())
    net.criterion(net.losses(X)).backward()
    losses = plain.losses(X)
    plain.criterion(losses)
    factors = dict(zip(TERMS, [2.0, 1.0, -1.0], strict=True))
    sum(factors[term] * plain.criterion.weights[term] * loss for term, loss in losses.items()).backward()
    torch.testing.assert_close(net.gradient(), plain.gradient())
    torch.testing.assert_close(net.criterion.weights, plain.criterion.weights)


def test_the_breakdown_has_the_cosines_after_the_backward_pass_also_without_an_aggregator():
    net = Net()
    h = net.trunk(X)
    targets = {"a": X[:, :1], "b": -2 * X[:, :1], "c": 5 * X[:, 1:2]}
    losses = [(net.heads[term](h) - targets[term]).square().mean() for term in TERMS]
    rows = torch.stack([torch.autograd.grad(loss, h, retain_graph=True)[0].flatten() for loss in losses])

    total = net.criterion(net.losses(X))
    assert net.criterion.last.cosines["a", "b"].isnan()
    total.backward()
    cosines = net.criterion.last.cosines
    assert list(cosines) == [("a", "b"), ("a", "c"), ("b", "c")]
    expected = torch.cosine_similarity(rows[[0, 0, 1]], rows[[1, 2, 2]], dim=1)
    torch.testing.assert_close(torch.stack(list(cosines.values())), expected)
    shares = net.criterion.last.gradient_shares
    torch.testing.assert_close(torch.stack(list(shares.values())), rows.norm(dim=1) / rows.norm(dim=1).sum())


def test_without_branch_there_are_no_cosines():
    criterion = WeightedLoss(Equal(["a"]))
    criterion({"a": torch.tensor(1.0, requires_grad=True)}).backward()
    assert criterion.last.cosines == {}


def test_an_absent_term_has_no_cosine_and_the_others_are_combined():
    net = Net(conflict=MGDA())
    net.criterion({**net.losses(X), "c": None}).backward()
    cosines = net.criterion.last.cosines
    assert cosines["a", "c"].isnan()
    assert cosines["a", "b"].isfinite()
    assert net.gradient().isfinite().all()


def test_accumulated_batches_are_combined_one_by_one():
    whole = Net(conflict=PCGrad())
    for half in X.split(3):
        (whole.criterion(whole.losses(half)) / 2).backward()
    parts = []
    for half in X.split(3):
        part = Net(conflict=PCGrad())
        part.criterion.conflict.draw.copy_(whole.criterion.conflict.draw)
        part.criterion(part.losses(half)).backward()
        parts.append(part.gradient())
    torch.testing.assert_close(whole.gradient(), sum(parts) / 2)


def test_a_resumed_run_goes_on_bit_for_bit():
    straight = Net(Uncertainty(TERMS), PCGrad())
    steps(straight, range(5))
    file = io.BytesIO()
    torch.save(straight.state_dict(), file)
    file.seek(0)
    resumed = Net(Uncertainty(TERMS), PCGrad(seed=7))
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert steps(resumed, range(5, 9)) == steps(straight, range(5, 9))


def test_a_step_that_is_not_finite_leaves_no_trace():
    spared, hit = Net(conflict=PCGrad()), Net(conflict=PCGrad())
    losses = hit.losses(X)
    hit.criterion({**losses, "a": losses["a"] * math.nan}).backward()
    hit.zero_grad()
    assert steps(hit, range(4)) == steps(spared, range(4))


def test_evaluation_draws_nothing_and_changes_nothing():
    quiet, evaluated = Net(conflict=PCGrad()), Net(conflict=PCGrad())
    evaluated.eval()
    evaluated.criterion(evaluated.losses(X))
    evaluated.train()
    assert steps(evaluated, range(4)) == steps(quiet, range(4))


@pytest.mark.parametrize("scheme", [Equal, GradBalance, LRAnnealing])
def test_the_step_compiles_into_one_graph(scheme):
    torch._dynamo.reset()
    if scheme.uses_gradients:
        skip_where_the_compiler_cannot_differentiate()
    net, plain = Net(scheme(TERMS), MGDA()), Net(scheme(TERMS), MGDA())
    compiled = torch.compile(lambda x: net.criterion(net.losses(x)), fullgraph=True, backend="aot_eager")
    for factor in (1.0, 1.5):
        for trained, total in ((net, compiled), (plain, lambda x: plain.criterion(plain.losses(x)))):
            trained.zero_grad()
            total(factor * X).backward()
        torch.testing.assert_close(net.gradient(), plain.gradient())
        torch.testing.assert_close(net.criterion.last.cosines, plain.criterion.last.cosines)
        torch.testing.assert_close(net.criterion.last.gradient_shares, plain.criterion.last.gradient_shares)


@pytest.mark.parametrize("scheme", [GradBalance, LRAnnealing])
def test_the_branch_measures_what_probes_do(scheme):
    branched, probed = Net(scheme(TERMS)), Net(scheme(TERMS))
    probed.criterion.branch = lambda h: {term: probed.criterion.probe(term, h) for term in TERMS}
    ours, theirs = steps(branched, range(6)), steps(probed, range(6))
    for one, other in zip(ours, theirs, strict=True):
        for row, expected in zip(one, other, strict=True):
            torch.testing.assert_close(torch.tensor(row), torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_a_gradient_scaler_changes_nothing():
    scaled, plain = Net(conflict=MGDA()), Net(conflict=MGDA())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in (scaled, plain)]
    for number in range(3):
        x = torch.randn(6, 3, generator=torch.Generator().manual_seed(number))
        for optimizer in optimizers:
            optimizer.zero_grad()
        scaler.scale(scaled.criterion(scaled.losses(x))).backward()
        scaler.step(optimizers[0])
        scaler.update()
        plain.criterion(plain.losses(x)).backward()
        optimizers[1].step()
    for ours, theirs in zip(scaled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_copy_goes_on_as_the_original_does():
    net = Net(GradBalance(TERMS), PCGrad())
    steps(net, range(3))
    copied = copy.deepcopy(net)
    assert steps(copied, range(3, 6)) == steps(net, range(3, 6))


def test_forward_passes_that_come_to_no_total_leave_nothing_behind():
    net, plain = Net(conflict=MGDA()), Net(conflict=MGDA())
    for first in (True, False):
        net.losses(X)  # a batch that is skipped
        sum(net.losses(2 * X).values()).backward()  # a total of the user's own
        for trained in (net, plain):
            trained.zero_grad()
            trained.criterion(trained.losses(X) if first else {**trained.losses(X), "a": None}).backward()
        torch.testing.assert_close(net.gradient(), plain.gradient(), rtol=0, atol=0)
        torch.testing.assert_close(net.criterion.last.cosines, plain.criterion.last.cosines, equal_nan=True)


class Unedited(nn.Module):
    """A network that knows nothing of branches."""

    def __init__(self, hook_free: Net) -> None:
        super().__init__()
        self.trunk, self.heads = hook_free.trunk, hook_free.heads

    def forward(self, x: Tensor, apart: bool = False) -> dict[str, Tensor]:
        h = self.trunk(x)
        return {term: head(h[...] if apart else h) for term, head in self.heads.items()}


def unedited(conflict: Aggregator | None) -> tuple[Unedited, WeightedLoss, Any]:
    network, criterion = Unedited(Net()), WeightedLoss(Equal(TERMS), conflict=conflict)
    return network, criterion, criterion.branch_output(network.trunk, dict(network.heads))


def squares(outputs: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    targets = {"a": x[:, :1], "b": -2 * x[:, :1], "c": 5 * x[:, 1:2]}
    return {term: (output - targets[term]).square().mean() for term, output in outputs.items()}


def test_hooks_branch_a_network_that_is_not_edited():
    network, criterion, handle = unedited(MGDA())
    criterion(squares(network(X), X)).backward()
    net = Net(conflict=MGDA())
    net.criterion(net.losses(X)).backward()
    ours = torch.cat([parameter.grad.flatten() for parameter in network.trunk.parameters()])
    torch.testing.assert_close(ours, net.gradient())
    handle.remove()
    with pytest.raises(ValueError, match=r"MGDA combines gradients where the terms part, and found no branch"):
        criterion(squares(network(X), X))


def test_what_is_computed_between_the_shared_module_and_the_heads_is_shared():
    network, criterion, handle = unedited(MGDA())
    handle.remove()
    criterion.branch_output(network.trunk[0], dict(network.heads))  # the activation function follows
    for _ in range(2):
        network.zero_grad()
        criterion(squares(network(X), X)).backward()
    net = Net(conflict=MGDA())
    net.criterion(net.losses(X)).backward()
    ours = torch.cat([parameter.grad.flatten() for parameter in network.trunk.parameters()])
    torch.testing.assert_close(ours, net.gradient())


def test_heads_that_are_entered_by_different_tensors_are_refused():
    network, _, _ = unedited(MGDA())
    with pytest.raises(ValueError, match=r"must all be entered by one tensor, and that of 'b', Linear, is entered by"):
        network(X, apart=True)


def test_a_head_that_is_entered_by_several_activations_is_refused():
    criterion, head = WeightedLoss(Equal(TERMS)), nn.Bilinear(2, 2, 1)
    criterion.branch_output(nn.Identity(), {"a": head})
    with pytest.raises(ValueError, match=r"the head of 'a', Bilinear, must be entered by one .* got 2 tensors"):
        head(torch.ones(2), torch.ones(2))


def test_terms_with_forward_passes_of_their_own_are_combined_at_the_parameters():
    class Difference(Aggregator):
        def combine(self, gramian: Tensor, present: Tensor, tolerance: float) -> Tensor:
            return torch.tensor([1.0, -1.0], dtype=gramian.dtype)

    network = nn.Linear(3, 1)
    criterion = WeightedLoss(Equal(["a", "b"]), conflict=Difference())
    net = criterion.branch_parameters(network)
    losses = {"a": net["a"](X).square().mean(), "b": net["b"](2 * X).square().mean()}
    criterion(losses).backward()
    expected = torch.autograd.grad(network(X).square().mean() - network(2 * X).square().mean(), network.weight)[0]
    torch.testing.assert_close(network.weight.grad, expected)
    assert -1 <= criterion.last.cosines["a", "b"] <= 1


def test_what_is_no_aggregator_or_no_activation_is_refused():
    with pytest.raises(TypeError, match=r"`conflict` must be an aggregator such as PCGrad\(\) or None, got 'pcgrad'"):
        WeightedLoss(Equal(TERMS), conflict="pcgrad")
    criterion = WeightedLoss(Equal(TERMS))
    with pytest.raises(TypeError, match=r"`h` must be an activation in floating point, got torch\.int64"):
        criterion.branch(torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"`heads` must be one of \['a', 'b', 'c'\], got 'd'"):
        criterion.branch_output(nn.Identity(), {"d": nn.Identity()})


def test_a_penalty_with_a_share_is_measured_against_the_combined_gradient():
    torch.manual_seed(0)
    trunk, heads = nn.Linear(3, 4), nn.ModuleDict({term: nn.Linear(4, 1) for term in ("a", "b")})
    criterion = WeightedLoss(Equal(["a", "b"]), penalties={"l2": L2(share=0.5)}, conflict=MGDA())
    h = criterion.branch(trunk(torch.randn(5, 3)))
    losses = {"a": (heads["a"](h["a"]) - 2).square().mean(), "b": 3 * (heads["b"](h["b"]) + 5).square().mean()}
    criterion(losses, module=trunk).backward()
    penalty = criterion.last.penalties["l2"] / trunk.weight.detach().square().sum() * 2 * trunk.weight.detach()
    data = trunk.weight.grad - penalty
    torch.testing.assert_close(penalty.norm() / data.norm(), torch.tensor(0.5))
