"""Gradient norms against `torch.autograd.grad`, in every setting in which people train."""

import copy
import gc
import math
import pickle
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from lossbalance import WeightedLoss
from lossbalance.weighting import Equal, GradBalance, GradNorm, UncertaintySoftmax
from tests.helpers.compiler import skip_where_the_compiler_cannot_differentiate
from tests.helpers.recorder import Recorder


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(12, 8), nn.Tanh())
        self.second = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.aux, self.main = nn.Linear(8, 3), nn.Linear(8, 1)

    def example(self) -> Tensor:
        return torch.randn(5, 12)


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU())
        self.aux, self.main = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 1, 3)

    def example(self) -> Tensor:
        return torch.randn(3, 1, 8, 8)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.second = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.aux, self.main = nn.Linear(8, 4), nn.Linear(8, 1)

    def example(self) -> Tensor:
        return torch.randn(3, 5, 8)


def losses_and_branch_points(
    net: nn.Module, x: Tensor, probe: Callable[[str, Tensor], Tensor], nested: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses of very different size, with both heads on one layer or on two."""
    h = net.first(x)
    last = net.second(h) if nested else h
    aux, main = probe("aux", h), probe("main", last)
    losses = {"aux": 300 * net.aux(aux).square().mean(), "main": net.main(main).tanh().mean()}
    return losses, {"aux": aux, "main": main}


def true_norms(losses: dict[str, Tensor], points: dict[str, Tensor]) -> Tensor:
    grads = [torch.autograd.grad(losses[term], points[term], retain_graph=True)[0] for term in losses]
    return torch.stack([grad.float().norm() for grad in grads])


def reveal(criterion: WeightedLoss) -> Tensor:
    """Has the recorder shown what the last backward pass measured of "aux" and "main"."""
    criterion(dict.fromkeys(criterion.terms))
    return criterion.weighting.shown[-1].norms[:2]


def recording(weights: tuple[float, ...] = (0.5, 40.0)) -> WeightedLoss:
    return WeightedLoss(Recorder(["aux", "main", "late"][: len(weights)], weights))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("network", [Linear, Convolution, Attention])
def test_probes_measure_what_autograd_says(network, nested):
    torch.manual_seed(0)
    net, criterion = network(), recording()
    shown, expected = [], []
    for _ in range(2):
        losses, points = losses_and_branch_points(net, net.example(), criterion.probe, nested)
        expected.append(true_norms(losses, points))
        criterion(losses).backward()
        shown.append(criterion.weighting.shown[-1].norms)
    torch.testing.assert_close(shown[0], expected[0], rtol=1e-6, atol=0)  # ahead of the first step
    torch.testing.assert_close(reveal(criterion), expected[1], rtol=1e-6, atol=0)  # by the backward pass


# As long as a term is unknown, here "late", the losses can be differentiated by the leaves; then they need not.
some_unknown = pytest.mark.parametrize("weights", [(0.5, 40.0), (0.5, 40.0, 1.0)], ids=["all_known", "one_unknown"])


def measured_after_two_steps(criterion: WeightedLoss, backward: Callable[[Tensor], None]) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    net = Linear()
    for _ in range(2):
        losses, points = losses_and_branch_points(net, net.example(), criterion.probe, nested=True)
        expected = true_norms(losses, points)
        backward(criterion(dict.fromkeys(criterion.terms) | losses))
    return reveal(criterion), expected


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


def test_the_norm_of_a_gradient_of_two_entries_by_hand():
    criterion = recording(weights=(2.0, 1.0))
    for _ in range(2):
        x = torch.tensor([1.0, 1.0], requires_grad=True)
        aux = (criterion.probe("aux", x) * torch.tensor([3.0, 4.0])).sum()  # d aux / dx = (3, 4), of norm 5
        main = (criterion.probe("main", x) * torch.tensor([0.0, 7.0])).sum()
        criterion({"aux": aux, "main": main}).backward()
    torch.testing.assert_close(reveal(criterion), torch.tensor([5.0, 7.0]))
    torch.testing.assert_close(x.grad, torch.tensor([6.0, 15.0]))  # the gradient itself passes unchanged


def test_several_probes_of_one_term_add_up_in_squares():
    criterion = recording(weights=(2.0, 1.0))
    for _ in range(2):
        x, y = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
        aux = (3 * criterion.probe("aux", x) + 4 * criterion.probe("aux", y)).sum()
        criterion({"aux": aux, "main": criterion.probe("main", x).sum()}).backward()
    torch.testing.assert_close(reveal(criterion), torch.tensor([5.0, 1.0]))


@pytest.mark.parametrize("terms", [list("abcdefghij"), list("jigfedcbah")])
def test_many_terms_at_one_activation_measure_the_same_in_any_order_and_leave_its_gradient_as_it_was(terms):
    criterion = WeightedLoss(Recorder(sorted(terms), [1.0] * 10))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 300, generator=generator)
    heads = {term: torch.randn(300, generator=generator) for term in terms}

    def step(probe: Callable[[str, Tensor], Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        leaf = x.clone().requires_grad_()
        h = leaf.tanh()
        losses = {}
        for term, head in heads.items():
            losses[term] = (probe(term, h) @ head).square().mean() + (h @ head).mean()  # also past the probe
        return losses, leaf, h

    for _ in range(3):
        losses, probed, _ = step(criterion.probe)
        criterion(losses).backward()
    criterion(dict.fromkeys(terms))

    losses, plain, h = step(lambda _, h: h)
    squares = {term: loss - (h @ heads[term]).mean() for term, loss in losses.items()}
    norms = [torch.autograd.grad(squares[term], h, retain_graph=True)[0].norm() for term in sorted(terms)]
    torch.testing.assert_close(criterion.weighting.shown[-1].norms, torch.stack(norms), rtol=1e-6, atol=0)
    torch.stack([losses[term] for term in sorted(terms)]).sum().backward()
    assert torch.equal(probed.grad, plain.grad)  # to the last bit: added up in the same order


def test_a_term_that_probes_an_activation_twice_has_a_norm_of_each():
    criterion = recording(weights=(2.0, 1.0))
    for _ in range(2):
        x = torch.ones(1, requires_grad=True)
        aux = (3 * criterion.probe("aux", x) + 4 * criterion.probe("aux", x)).sum()
        criterion({"aux": aux, "main": criterion.probe("main", x).sum()}).backward()
    torch.testing.assert_close(reveal(criterion), torch.tensor([5.0, 1.0]))
    torch.testing.assert_close(x.grad, torch.tensor([15.0]))


def test_an_activation_changed_in_place_between_two_probes_is_another_one():
    criterion = recording(weights=(1.0, 1.0))
    for _ in range(2):
        x = torch.ones(1, requires_grad=True)
        h = x * 1
        aux = criterion.probe("aux", h).sum()
        h.mul_(5)
        criterion({"aux": aux, "main": criterion.probe("main", h).sum()}).backward()
    torch.testing.assert_close(reveal(criterion), torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(x.grad, torch.tensor([6.0]))


def without_gradients(criterion: WeightedLoss, x: Tensor) -> Tensor:
    with torch.no_grad():
        assert criterion.probe("aux", x) is x
    return x


def in_evaluation(criterion: WeightedLoss, x: Tensor) -> Tensor:
    criterion.eval()
    assert criterion.probe("main", x) is x
    criterion.train()
    return x


def with_other_data(criterion: WeightedLoss, x: Tensor) -> Tensor:
    x.data = torch.full_like(x, 5.0)
    return x


either_kind = pytest.mark.parametrize("scheme", [Equal, GradBalance])


@either_kind
@pytest.mark.parametrize("meanwhile", [without_gradients, in_evaluation, with_other_data])
def test_a_branch_is_of_the_activation_as_it_is_and_of_nothing_that_happened_meanwhile(scheme, meanwhile):
    criterion, x = WeightedLoss(scheme(["aux", "main"])), torch.ones(2, requires_grad=True)
    h = x * 2
    criterion.probe("aux", h)
    main = criterion.probe("main", meanwhile(criterion, h))
    assert torch.equal(main, h)
    torch.testing.assert_close(torch.autograd.grad(main.sum(), x)[0], torch.full((2,), 2.0))


@either_kind
def test_an_activation_that_comes_to_need_a_gradient_between_two_probes_gets_it(scheme):
    criterion, x = WeightedLoss(scheme(["aux", "main"])), torch.ones(2)
    criterion.probe("aux", x)
    x.requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(criterion.probe("main", x).sum(), x)[0], torch.ones(2))


@either_kind
def test_an_activation_cut_off_between_two_probes_stays_cut_off(scheme):
    criterion, x = WeightedLoss(scheme(["aux", "main"])), torch.ones(2, requires_grad=True)
    h = x * 2
    criterion.probe("aux", h)
    cut = criterion.probe("main", h.detach_()).sum()
    if cut.requires_grad:  # by the leaf
        cut.backward()
    assert x.grad is None


@either_kind
def test_a_criterion_that_moves_refuses_what_did_not(scheme):
    criterion, x = WeightedLoss(scheme(["aux", "main"])), torch.ones(2, requires_grad=True)
    branch = criterion.probe("aux", x)
    criterion.to("meta")
    with pytest.raises(ValueError, match="`x` is on cpu, the criterion on meta"):
        criterion.probe("main", x)
    assert branch.requires_grad


@either_kind
def test_threads_probe_activations_of_their_own(scheme):
    terms = list("abcd")
    criterion = WeightedLoss(scheme(terms))

    def probe(number: int) -> bool:
        for _ in range(300):
            x = torch.full((3,), float(number), requires_grad=True)
            if not all(torch.equal(criterion.probe(term, x), x) for term in terms):
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(probe, range(4)))


def test_an_activation_without_a_version_is_probed_all_the_same():
    criterion = recording()
    with torch.inference_mode():
        x = torch.ones(2)
    assert torch.equal(criterion.probe("aux", x), x)


@either_kind
def test_a_step_that_fails_between_two_probes_keeps_nothing_alive(scheme):
    criterion, head = WeightedLoss(scheme(["aux", "main"])), nn.Linear(3, 1)
    h = CountBackward.apply(torch.ones(1, 3, requires_grad=True))
    node = weakref.ref(h.grad_fn)
    aux = head(criterion.probe("aux", h))
    assert aux.requires_grad
    del h, aux
    gc.collect()
    assert node() is None


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


def test_a_criterion_that_was_pickled_measures_in_a_compiled_step():
    skip_where_the_compiler_cannot_differentiate()

    def total(criterion: WeightedLoss, x: Tensor) -> Tensor:
        aux, main = criterion.probe("aux", x), criterion.probe("main", x)
        return criterion({"aux": (aux * torch.tensor([3.0, 4.0])).sum(), "main": main.square().sum()})

    plain = WeightedLoss(GradBalance(["aux", "main"]))
    pickled = pickle.loads(pickle.dumps(plain))
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    for step in range(3):
        x = torch.full((2,), step + 1.0, requires_grad=True)
        total(plain, x).backward()
        compiled(pickled, x).backward()
    torch.testing.assert_close(pickled.weights, plain.weights)


@either_kind
def test_an_activation_must_not_be_changed_in_place_behind_its_probe(scheme):
    criterion, x = WeightedLoss(scheme(["aux", "main"])), torch.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="modified inplace"):
        criterion.probe("aux", x * 1).relu_()


@pytest.mark.filterwarnings("ignore:Using backward")
def test_a_backward_pass_that_can_be_differentiated_leaves_a_criterion_that_can_be_copied_and_compiled():
    skip_where_the_compiler_cannot_differentiate()

    def total(criterion: WeightedLoss, x: Tensor) -> Tensor:
        aux = (criterion.probe("aux", x) * torch.tensor([3.0, 4.0])).sum()
        return criterion({"aux": aux, "main": criterion.probe("main", x).square().sum()})

    def example(scale: float) -> Tensor:
        return torch.full((2,), scale, requires_grad=True)

    eager = WeightedLoss(GradBalance(["aux", "main"]))
    total(eager, example(1.0)).backward()
    total(eager, example(2.0)).log().backward(create_graph=True)
    copied, compiled = copy.deepcopy(eager), torch.compile(total, fullgraph=True, backend="aot_eager")
    for scale in (3.0, 4.0, 5.0):
        total(eager, example(scale)).backward()
        compiled(copied, example(scale)).backward()
    torch.testing.assert_close(copied.weights, eager.weights)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda criterion: pickle.loads(pickle.dumps(criterion))])
def test_a_copy_made_between_two_steps_knows_what_was_measured_and_goes_on(copied):
    torch.manual_seed(0)
    net, criterion = Linear(), WeightedLoss(GradBalance(["aux", "main"]))
    x = net.example()
    for _ in range(3):
        criterion(losses_and_branch_points(net, x, criterion.probe, nested=True)[0]).backward()
    twin = copied(criterion)
    for scale in (2, 3, 4):
        for each in (criterion, twin):
            each(losses_and_branch_points(net, scale * x, each.probe, nested=True)[0]).backward()
        assert twin.weights == criterion.weights


def test_gradient_shares_are_those_of_the_weighted_terms_under_every_scheme():
    criterion = WeightedLoss(Equal(["aux", "main"]))
    x = torch.ones(1, requires_grad=True)
    total = criterion({"aux": 3 * criterion.probe("aux", x).sum(), "main": criterion.probe("main", x).sum()})
    assert math.isnan(criterion.last.gradient_shares["aux"])
    total.backward()
    assert {term: share.item() for term, share in criterion.last.gradient_shares.items()} == {"aux": 0.75, "main": 0.25}


def test_a_probed_term_without_gradient_counts_as_absent():
    criterion = recording()
    for _ in range(2):
        x = torch.ones(1, requires_grad=True)
        h = criterion.probe("aux", x)
        criterion({"aux": (h * 0).detach().sum() + 1, "main": criterion.probe("main", x).sum()}).backward()
    criterion({"aux": None, "main": None})
    assert criterion.weighting.shown[-1].seen.tolist() == [False, True]


def test_activations_of_a_frozen_trunk_are_measured_too():
    criterion, heads = recording(weights=(2.0, 1.0)), torch.tensor([[3.0, 4.0], [0.0, 7.0]], requires_grad=True)
    for _ in range(3):
        h = torch.ones(2)
        losses = {"aux": criterion.probe("aux", h) @ heads[0], "main": criterion.probe("main", h) @ heads[1]}
        criterion(losses).backward()
    torch.testing.assert_close(reveal(criterion), torch.tensor([5.0, 7.0]))


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


def test_a_scheme_that_takes_the_place_of_another_is_balanced_from_its_first_step_on():
    criterion, x = WeightedLoss(Equal(["aux", "main"])), torch.ones(1, requires_grad=True)
    for scheme in (Equal, Equal, GradBalance):
        criterion.weighting = scheme(["aux", "main"])
        losses = {"aux": 300 * criterion.probe("aux", x).sum(), "main": criterion.probe("main", x).sum()}
        criterion(losses).backward()
    torch.testing.assert_close(criterion.last.gradient_shares["aux"], torch.tensor(0.5))


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.vmap, torch.func.jacrev])
def test_a_transformed_function_says_that_it_cannot_be_probed_nor_observed(transform):
    criterion, x = WeightedLoss(Equal(["aux", "main"])), torch.ones(2)
    with pytest.raises(RuntimeError, match=r"to probe an activation is not possible inside a transform of torch.func"):
        transform(lambda x: criterion.probe("aux", x).sum())(x)
    observing = WeightedLoss(UncertaintySoftmax(["aux", "main"]))
    with pytest.raises(RuntimeError, match=r"to observe a step is not possible inside a transform of torch.func"):
        transform(lambda x: observing({"aux": x.sum(), "main": x.sum()}))(x)
    criterion.eval()
    transform(lambda x: criterion({"aux": criterion.probe("aux", x).sum(), "main": x.sum()}))(x)


@either_kind
def test_a_step_can_be_exported_in_evaluation_and_says_so_in_training(scheme):
    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = Linear(), WeightedLoss(scheme(["aux", "main"]))

        def forward(self, x: Tensor) -> Tensor:
            return self.criterion(losses_and_branch_points(self.net, x, self.criterion.probe, nested=True)[0])

    step, x = Step(), Linear().example()
    step(x).backward()
    with pytest.raises(RuntimeError, match="to probe an activation is not possible while it is exported"):
        torch.export.export(step, (x,), strict=False)
    if torch.torch_version.TorchVersion(torch.__version__) >= "2.13":
        with pytest.raises(Exception, match="to probe an activation is not possible while it is exported"):
            torch.export.export(step, (x,), strict=True)
    exported = torch.export.export(step.eval(), (x,), strict=False)
    torch.testing.assert_close(exported.module()(x), step(x))


def test_a_total_that_needs_no_gradient_is_left_without():
    criterion = WeightedLoss(Equal(["aux", "main"]))
    criterion.probe("aux", torch.ones(1, requires_grad=True))
    assert not criterion({"aux": torch.tensor(1.0), "main": torch.tensor(1.0)}).requires_grad


def test_a_step_without_backward_measures_nothing():
    criterion = recording()
    for _ in range(2):
        x = torch.ones(1, requires_grad=True)
        criterion({"aux": criterion.probe("aux", x).sum(), "main": criterion.probe("main", x).sum()})
    criterion({"aux": None, "main": None})
    assert criterion.weighting.shown[-1].seen.tolist() == [False, False]


class CountBackward(torch.autograd.Function):
    """The identity, counting how often its backward runs."""

    passes = 0

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        CountBackward.passes += 1
        return grad


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


def test_probe_inputs_measures_the_same_without_an_edit_and_leaves_nothing_behind():
    torch.manual_seed(0)
    net, edited, untouched = Linear(), recording(), recording()
    handle = untouched.probe_inputs({"aux": net.aux, "main": net.main})

    def forward(x: Tensor) -> dict[str, Tensor]:
        h = net.first(x)
        return {"aux": 300 * net.aux(h).square().mean(), "main": net.main(net.second(h)).tanh().mean()}

    x = net.example()
    for _ in range(2):
        untouched(forward(x)).backward()
    handle.remove()
    for _ in range(2):
        edited(losses_and_branch_points(net, x, edited.probe, nested=True)[0]).backward()

    torch.testing.assert_close(reveal(untouched), reveal(edited))
    assert not net.aux._forward_pre_hooks
    assert not net.main._forward_pre_hooks


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


def test_small_gradients_of_fp16_activations_are_measured_ahead_all_the_same():
    criterion = recording(weights=(1.0, 1.0))
    x = torch.ones(4, dtype=torch.float16, requires_grad=True)
    aux = criterion.probe("aux", x).float().sum() * 1e-8  # whose gradient vanishes in fp16
    criterion({"aux": aux, "main": criterion.probe("main", x).float().sum()})
    torch.testing.assert_close(criterion.weighting.shown[-1].norms, torch.tensor([2e-8, 2.0]), rtol=1e-2, atol=0)


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


def test_probes_do_nothing_in_evaluation_and_without_gradients():
    criterion, x = recording(), torch.ones(2, requires_grad=True)
    with torch.no_grad():
        assert criterion.probe("aux", x) is x
    criterion.eval()
    assert criterion.probe("aux", x) is x


def test_clipping_never_sees_a_probe():
    criterion = WeightedLoss(GradBalance(["aux", "main"]))
    assert list(criterion.parameters()) == []


def test_nothing_is_kept_alive_over_thousands_of_steps():
    criterion = WeightedLoss(GradNorm(["aux", "main"]))
    x = torch.ones(3, requires_grad=True)

    def steps(count: int) -> int:
        for _ in range(count):
            criterion({term: criterion.probe(term, x).square().sum() for term in criterion.terms}).backward()
        gc.collect()
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    assert steps(10) >= steps(2000)


def test_a_step_lets_go_of_every_activation():
    net, criterion = Linear(), recording()
    seen = []

    def step() -> None:
        x = CountBackward.apply(net.example().requires_grad_())  # whose node, of all, can be referred to
        losses, points = losses_and_branch_points(net, x, criterion.probe, nested=True)
        seen.extend(weakref.ref(point) for point in points.values())
        seen.append(weakref.ref(x.grad_fn))
        criterion(losses).backward()

    step()
    step()
    gc.collect()
    assert [ref() for ref in seen] == [None] * 6
