"""Copies, devices, threads, transforms and memory: what a step leaves behind."""

import copy
import gc
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from lossbalance import WeightedLoss
from lossbalance.weighting import Equal, GradBalance, GradNorm, UncertaintySoftmax
from tests.gradients.networks import (
    CountBackward,
    Linear,
    either_kind,
    losses_and_branch_points,
    recording,
)
from tests.helpers.compiler import skip_where_the_compiler_cannot_differentiate


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
