"""The life of a step: calls of the criterion, forward and backward passes in any order."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lossbalance import WeightedLoss
from lossbalance.conflict import MGDA
from lossbalance.penalties import L2
from lossbalance.weighting import Equal, GradBalance, LRAnnealing, Uncertainty, UncertaintySoftmax

Losses = dict[str, Tensor]


Weights = dict[str, Tensor]


def once(criterion: WeightedLoss, losses: Losses) -> Weights:
    criterion(losses).backward()
    return criterion.weights


def after_a_log(criterion: WeightedLoss, losses: Losses) -> Weights:
    criterion(losses)
    return once(criterion, losses)


def before_a_log(criterion: WeightedLoss, losses: Losses) -> Weights:
    criterion(losses).backward(retain_graph=True)
    weights = criterion.weights
    criterion(losses)
    return weights


def after_a_log_without_gradients(criterion: WeightedLoss, losses: Losses) -> Weights:
    if criterion.probes.known:
        with torch.no_grad():
            criterion(losses)
    return once(criterion, losses)


def after_a_log_of_detached_losses(criterion: WeightedLoss, losses: Losses) -> Weights:
    if criterion.probes.known:
        criterion({term: loss.detach() for term, loss in losses.items()})
    return once(criterion, losses)


def after_an_evaluation(criterion: WeightedLoss, losses: Losses) -> Weights:
    criterion.eval()
    criterion(losses)
    criterion.train()
    return once(criterion, losses)


def after_another_forward_pass(criterion: WeightedLoss, losses: Losses) -> Weights:
    criterion.probe("a", torch.ones(2, requires_grad=True)).sum()
    return once(criterion, losses)


def in_two_totals(criterion: WeightedLoss, losses: Losses) -> Weights:
    ((criterion(losses) + criterion(losses)) / 2).backward()
    return criterion.weights


def after_one_that_fails(criterion: WeightedLoss, losses: Losses) -> Weights:
    """As out of memory in the middle of a backward pass, after which the loop tries again."""

    def fail(gradient: Tensor) -> None:
        raise RuntimeError("out of memory")

    total, broken = criterion(losses), torch.zeros((), requires_grad=True)
    broken.register_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        (total + losses["b"] + broken * 1).backward(retain_graph=True)
    total.backward()
    return criterion.weights


WAYS = [
    after_a_log,
    before_a_log,
    after_a_log_without_gradients,
    after_a_log_of_detached_losses,
    after_an_evaluation,
    after_another_forward_pass,
    in_two_totals,
    after_one_that_fails,
]


def weights_of(way: Callable[[WeightedLoss, Losses], Weights], criterion: WeightedLoss) -> list[dict[str, float]]:
    """Trains on a loss that grows a hundredfold in its fourth step."""
    x, seen = torch.ones(2, requires_grad=True), []
    for step in range(8):
        scale = 100.0 if step >= 3 else 1.0
        a, b = criterion.probe("a", x), criterion.probe("b", x)
        weights = way(criterion, {"a": scale * (a * torch.tensor([3.0, 4.0])).sum(), "b": b.square().sum()})
        seen.append({term: weight.item() for term, weight in weights.items()})
    return seen


@pytest.mark.parametrize("way", WAYS)
def test_weights_move_as_with_one_call_in_each_step(way):
    expected = weights_of(once, WeightedLoss(GradBalance(["a", "b"])))
    assert expected[-1]["a"] < expected[0]["a"] / 2
    for ours, theirs in zip(weights_of(way, WeightedLoss(GradBalance(["a", "b"]))), expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_a_backward_pass_that_raises_leaves_no_trace():
    """LRAnnealing reads magnitudes, which half a pass would make too small."""

    def weights(fails: bool) -> list[float]:
        criterion, x = WeightedLoss(LRAnnealing(["a", "b"])), torch.ones(3, requires_grad=True)
        seen = []
        for step in range(6):
            h = x * 1
            first, second = criterion.probe("a", h[:1]), criterion.probe("a", h[1:])
            loss = (first * 3).sum() + (second * torch.tensor([4.0, 5.0])).sum()
            total = criterion({"a": loss, "b": criterion.probe("b", h).sum()})
            if fails and step == 3:
                hook = h.register_hook(lambda gradient: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    total.backward()
                hook.remove()
            else:
                total.backward()
            seen.append(criterion.weights["b"].item())
        return seen

    assert weights(fails=True) == pytest.approx(weights(fails=False))


def test_a_call_that_is_refused_leaves_the_next_step_as_it_is():
    criterion, x = WeightedLoss(GradBalance(["a", "b"])), torch.ones(2, requires_grad=True)
    for step in range(3):
        losses = {"a": 3 * criterion.probe("a", x).sum(), "b": criterion.probe("b", x).sum()}
        if step == 1:
            with pytest.raises(ValueError, match="missing"):
                criterion({"a": losses["a"]})
        criterion(losses).backward()
    torch.testing.assert_close(criterion.last.gradient_shares["a"], torch.tensor(0.5))


def test_a_step_without_terms_passes_under_a_gradient_scheme():
    criterion, x = WeightedLoss(GradBalance(["a", "b"])), torch.ones(2, requires_grad=True)
    for shared in (x, None):
        total = criterion({"a": None, "b": None}, shared=shared)
        total.backward()
        assert total.item() == 0
        assert criterion.last.weights == {"a": torch.tensor(0.0), "b": torch.tensor(0.0)}


@pytest.mark.parametrize("nested", [False, True])
def test_a_probe_that_sees_the_gradient_of_another_term_is_an_error_with_both_names(nested):
    criterion, x = WeightedLoss(GradBalance(["aux", "main"])), torch.ones(2, requires_grad=True)
    if nested:  # the probe of "aux" is too early: "main" passes it, too
        h = criterion.probe("aux", x)
        losses = {"aux": h.sum(), "main": criterion.probe("main", h * 2).square().sum()}
    else:  # one head for both
        head = nn.Linear(2, 2)
        criterion.probe_inputs({"aux": head})
        criterion.probe_inputs({"main": head})
        y = head(x)
        losses = {"aux": y[0].square(), "main": (y[1] - 1).square()}
    with pytest.raises(ValueError, match=r"the probe of '(aux|main)' must see .* alone, and the loss of '(main|aux)'"):
        criterion(losses)


def test_a_loss_with_a_gradient_of_zero_at_the_probe_of_another_term_is_allowed():
    criterion, x = WeightedLoss(GradBalance(["aux", "main"])), torch.ones(2, requires_grad=True)
    aux, main = criterion.probe("aux", x), criterion.probe("main", x)
    criterion({"aux": aux.sum(), "main": 3 * main.sum() + 0 * aux.sum()}).backward()
    torch.testing.assert_close(criterion.weights["aux"], 3 * criterion.weights["main"])


def test_a_differentiated_step_that_measured_nothing_is_reported_once():
    criterion, x = WeightedLoss(GradBalance(["a", "b"])), torch.ones(2, requires_grad=True)
    criterion({"a": criterion.probe("a", x).sum(), "b": criterion.probe("b", x).sum()}).backward()
    lost = {"a": x.sum(), "b": x.sum()}  # a forward pass that goes around the probes
    criterion(lost).backward()
    with pytest.warns(UserWarning, match="met no probe, so nothing was measured"):
        criterion(lost).backward()
    criterion(lost).backward()


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_are_combined_also_where_the_backward_pass_can_be_differentiated(create_graph):
    criterion = WeightedLoss(Equal(["a", "b"]), conflict=MGDA())
    x = torch.ones(2, requires_grad=True)
    h = criterion.branch(x)
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0])
    total = criterion({"a": (h["a"] * a).sum(), "b": (h["b"] * b).square().sum() / 2})
    total.backward(create_graph=create_graph)
    # The shortest point between (3, 0) and (0, 1), 9/10 of the way to the second; MGDA's multipliers add up to 1.
    torch.testing.assert_close(x.grad.detach(), torch.tensor([0.3, 0.9]), atol=1e-4, rtol=1e-4)
    if create_graph:
        (second,) = torch.autograd.grad(x.grad.sum(), x)
        torch.testing.assert_close(second, torch.tensor([0.0, 0.9]), atol=1e-4, rtol=1e-4)
        x.grad = None


def test_parameters_may_be_used_once_more_between_the_backward_pass_and_the_step_of_the_optimizer():
    net = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    probing, branching = WeightedLoss(GradBalance(["a", "b"])), WeightedLoss(Equal(["a", "b"]), conflict=MGDA())
    x = torch.ones(3, 2)
    for criterion, nets in (
        (probing, {term: probing.probe_parameters(term, net) for term in "ab"}),
        (branching, branching.branch_parameters(net)),
    ):
        for _ in range(3):
            optimizer.zero_grad()
            criterion({"a": nets["a"](x).square().mean(), "b": (nets["b"](x) - 1).square().mean()}).backward()
            nets["a"](x)
            optimizer.step()
            torch.testing.assert_close(nets["a"](x), net(x))


class Heads(nn.Module):
    """Two heads on a trunk, and their losses."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.heads = nn.Linear(2, 3), nn.ModuleDict({term: nn.Linear(3, 1) for term in "ab"})

    def forward(self, x: Tensor) -> Losses:
        h = self.trunk(x)
        return {term: head(h).square().mean() for term, head in self.heads.items()}


def test_a_copied_model_with_a_branch_runs_as_often_as_one_likes():
    torch.manual_seed(0)
    model, criterion, x = Heads(), WeightedLoss(Equal(["a", "b"]), conflict=MGDA()), torch.randn(5, 2)
    criterion.branch_output(model.trunk, dict(model.heads))
    criterion(model(x)).backward()
    alone = copy.deepcopy(model)
    for _ in range(3):
        torch.testing.assert_close(alone(x), model(x))
    other, others = copy.deepcopy((model, criterion))
    for _ in range(2):
        model.zero_grad()
        other.zero_grad()
        criterion(model(x)).backward()
        others(other(x)).backward()
        torch.testing.assert_close(other.trunk.weight.grad, model.trunk.weight.grad)
        torch.testing.assert_close(others.last.cosines, criterion.last.cosines)


def test_after_evaluation_the_last_step_is_that_of_the_evaluation():
    criterion, x = WeightedLoss(GradBalance(["a", "b"])), torch.ones(2, requires_grad=True)
    for _ in range(2):
        criterion({"a": 3 * criterion.probe("a", x).sum(), "b": criterion.probe("b", x).sum()}).backward()
    assert criterion.last.gradient_shares["a"].item() == pytest.approx(0.5)
    assert copy.deepcopy(criterion).last.gradient_shares["a"].item() == pytest.approx(0.5)
    criterion.eval()
    criterion({"a": x.sum(), "b": x.sum()})
    assert criterion.last.gradient_shares == {}
    assert criterion.last.cosines == {}


TRANSFORMS = [
    torch.func.grad,
    torch.func.jacrev,
    lambda f: torch.func.jacrev(torch.func.jacrev(f)),
    lambda f: torch.func.vmap(torch.func.grad(f)),
]


@pytest.mark.parametrize("scheme", [UncertaintySoftmax, Uncertainty, GradBalance])
@pytest.mark.parametrize("loss_sum", [None, 2.0])
def test_a_criterion_in_evaluation_works_inside_transformed_functions(scheme, loss_sum):
    criterion = WeightedLoss(scheme(["a", "b"]), loss_sum=loss_sum)
    x = torch.tensor([[1.0, 3.0], [2.0, 4.0]])

    def losses(x: Tensor) -> Losses:
        return {"a": x.square().sum(), "b": 3 * (x - 1).square().sum()}

    leaf = x.clone().requires_grad_()
    criterion(losses(leaf), shared=leaf)
    criterion.eval()(losses(x))
    weights, total = criterion.weights, criterion.last.total

    def by_hand(x: Tensor) -> Tensor:
        return sum(weights[term] * loss for term, loss in losses(x).items())

    for transform in TRANSFORMS:
        torch.testing.assert_close(transform(lambda x: criterion(losses(x)))(x), transform(by_hand)(x))
    values = torch.func.vmap(lambda x: criterion(losses(x)))(x)
    torch.testing.assert_close(values, torch.stack([criterion(losses(row)) for row in x]))
    assert copy.deepcopy(criterion).weights == weights
    assert criterion.last.total.shape == total.shape


def test_a_module_of_fabric_under_mixed_precision_is_balanced():
    fabric_module = pytest.importorskip("lightning.fabric")
    fabric = fabric_module.Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    torch.manual_seed(0)
    net, x = Heads(), torch.randn(8, 2)
    probed = WeightedLoss(GradBalance(["a", "b"]))
    shared = WeightedLoss(GradBalance(["a", "b"]), penalties={"l2": L2(share=0.1)})
    probed.probe_inputs(dict(net.heads))
    model, optimizer = fabric.setup(net, torch.optim.SGD(net.parameters(), lr=1e-4))
    for step in range(3):
        optimizer.zero_grad()
        losses = {term: (100 if term == "a" else 1) * loss for term, loss in model(x).items()}
        if step:
            shared(losses, module=net, shared=net.trunk.weight)
        fabric.backward(probed(losses))
        optimizer.step()
    assert probed.last.gradient_shares["a"].item() == pytest.approx(0.5, abs=0.1)
    with pytest.raises(RuntimeError, match=r"fabric\.backward"):
        probed(model(x)).backward()


def test_accumulated_batches_keep_the_proportions_of_the_weights_and_loss_sum_their_size():
    torch.manual_seed(0)
    x, weight = torch.randn(1, 3).expand(8, 3), torch.randn(3, 4)

    def weights(batches: int, loss_sum: float | None) -> Tensor:
        criterion = WeightedLoss(GradBalance(["a", "b"]), loss_sum=loss_sum)
        for _ in range(4):
            for rows in x.chunk(batches):
                h = (rows @ weight).requires_grad_()
                losses = {"a": 100 * criterion.probe("a", h).square().mean(), "b": criterion.probe("b", h).exp().mean()}
                (criterion(losses) / batches).backward()
        return torch.stack(list(criterion.weights.values()))

    whole, parts = weights(1, None), weights(4, None)
    torch.testing.assert_close(parts / parts.sum(), whole / whole.sum())
    torch.testing.assert_close(parts, whole / 2)
    torch.testing.assert_close(weights(4, 1.0), weights(1, 1.0))
