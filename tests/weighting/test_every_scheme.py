"""What every scheme must do, for every YAML in ``conf/loss/``; a new scheme needs no edit here."""

import io
from collections import Counter
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lossbalance import WeightedLoss
from lossbalance.cli.config.schema import register
from tests.helpers.compiler import skip_where_the_compiler_cannot_differentiate

CONF = Path(__file__).parents[2] / "conf"
SCHEMES = sorted(path.stem for path in (CONF / "loss").glob("*.yaml"))
TERMS = ["aux", "main"]


def data(step: int) -> Tensor:
    """Inputs and targets of a step, which has data of its own."""
    return torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(step))


class Training(nn.Module):
    """A network with two heads, probed where they part, its criterion and its optimizer."""

    def __init__(self, criterion: WeightedLoss) -> None:
        super().__init__()
        self.criterion = criterion
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.trunk = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
            self.heads = nn.ModuleDict({term: nn.Linear(6, 1) for term in TERMS})
        network = [*self.trunk.parameters(), *self.heads.parameters()]
        self.optimizer = torch.optim.Adam([{"params": network}, *criterion.parameter_groups()], lr=0.01)

    def losses(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The losses of a batch; one is a hundred times the other."""
        h = self.trunk(x)
        self.outputs = {term: self.heads[term](self.criterion.probe(term, h)) for term in TERMS}
        aux, main = ((self.outputs[term] - y[:, i : i + 1]).square().mean() for i, term in enumerate(TERMS))
        return {"aux": 100 * aux, "main": main}

    def step(self, number: int, **instead: Tensor | None) -> Tensor:
        """Trains one step, with some losses replaced, and returns the total; moves nothing if it is not finite."""
        self.optimizer.zero_grad()
        total = self.criterion({**self.losses(*data(number)), **instead})
        total.backward()
        if total.isfinite():
            self.optimizer.step()
        return total.detach()

    def saved(self) -> dict[str, Any]:
        """The state of everything, as it comes back from a file."""
        file = io.BytesIO()
        torch.save({"model": self.state_dict(), "optimizer": self.optimizer.state_dict()}, file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    def resume(self, saved: dict[str, Any]) -> "Training":
        self.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        return self


@cache
def configured(scheme: str) -> DictConfig:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=[f"loss={scheme}", "alpha=0.3"])


def start(scheme: str, steps: int = 0, **settings: Any) -> Training:
    training = Training(WeightedLoss(instantiate(configured(scheme).loss), **settings))
    for step in range(steps):
        training.step(step)
    return training


def assert_same(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


@pytest.fixture(params=SCHEMES)
def scheme(request: pytest.FixtureRequest) -> str:
    return request.param


def test_its_repr_shows_the_terms_and_every_setting(scheme):
    shown = repr(instantiate(configured(scheme).loss))
    settings = configured(scheme).loss.keys() - {"_target_", "terms", "module"}
    assert "'aux', 'main'" in shown
    assert all(f", {name}=" in shown for name in settings)


@pytest.mark.parametrize("weight_sum", [None, 2.0])
def test_the_weights_are_the_gradient_of_the_total(scheme, weight_sum):
    training = start(scheme, steps=3, weight_sum=weight_sum)
    losses = training.losses(*data(3))
    total = training.criterion(losses)
    gradients = torch.autograd.grad(total, list(losses.values()))
    torch.testing.assert_close(torch.stack(list(training.criterion.weights.values())), torch.stack(gradients))
    assert total.shape == ()


def test_weights_are_finite_and_never_negative(scheme):
    training = start(scheme)
    for step in range(20):
        training.step(step)
        weights = torch.stack(list(training.criterion.weights.values()))
        assert (weights.isfinite() & (weights >= 0)).all()


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(scheme):
    straight = start(scheme, steps=3)
    resumed = start(scheme).resume(straight.saved())
    for step in range(3, 6):
        assert_same(resumed.step(step), straight.step(step))
    assert_same(resumed.saved(), straight.saved())


@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_leaves_no_trace(scheme, broken, at):
    spared, hit = start(scheme, steps=at), start(scheme, steps=at)
    assert not hit.step(100, aux=hit.losses(*data(100))["aux"] * broken).isfinite()
    for step in range(at, at + 3):
        assert_same(hit.step(step), spared.step(step))
    assert_same(hit.saved(), spared.saved())


def test_the_order_of_names_does_not_matter(scheme):
    training = start(scheme, steps=3)
    other = start(scheme).resume(training.saved())
    losses, reversed_losses = training.losses(*data(3)), dict(reversed(other.losses(*data(3)).items()))
    assert list(losses) != list(reversed_losses)
    assert_same(other.criterion(reversed_losses), training.criterion(losses))


def test_an_absent_term_weighs_nothing_and_trains_nothing(scheme):
    training = start(scheme, steps=3)
    head = deepcopy(training.heads["aux"].state_dict())
    training.optimizer = torch.optim.SGD(training.optimizer.param_groups, lr=0.01)
    total = training.step(3, aux=None)
    assert total.isfinite()
    assert training.criterion.weights["aux"] == 0
    assert_same(training.heads["aux"].state_dict(), head)


def test_a_step_without_any_term_moves_no_state(scheme):
    training = start(scheme, steps=3)
    training.criterion(training.losses(*data(3)))  # observes what the last backward pass measured
    before = deepcopy(training.criterion.weighting.state_dict())
    training.criterion({"aux": None, "main": None})
    assert_same(training.criterion.weighting.state_dict(), before)


def test_eval_leaves_no_trace(scheme):
    quiet, evaluated = start(scheme, steps=3), start(scheme, steps=3)
    evaluated.eval()
    with torch.no_grad():
        evaluated.criterion(evaluated.losses(*data(50)))
    evaluated.train()
    assert_same(evaluated.saved(), quiet.saved())
    assert_same(evaluated.step(3), quiet.step(3))


class SyncCounter(TorchDispatchMode):
    """Counts host-device synchronizations: reads of a value on the device by the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_step_does_not_synchronize_with_the_device(scheme):
    training = start(scheme, steps=3)
    losses = training.losses(*data(3))
    with SyncCounter() as syncs:
        training.criterion(losses).backward()
    assert syncs.count == 0


def test_a_step_takes_one_ordinary_backward_pass(scheme):
    training = start(scheme, steps=3)
    losses, passes = training.losses(*data(3)), Counter()
    for term, output in training.outputs.items():
        output.register_hook(lambda _, term=term: passes.update([term]))
    training.criterion(losses).backward()
    assert passes == {"aux": 1, "main": 1}


def test_the_step_compiles_into_one_graph(scheme):
    torch._dynamo.reset()
    training, plain = start(scheme, steps=3), start(scheme, steps=3)
    if training.criterion.weighting.uses_gradients or scheme == "scalarizer":
        skip_where_the_compiler_cannot_differentiate()
    compiled = torch.compile(lambda x, y: training.criterion(training.losses(x, y)), fullgraph=True, backend="eager")
    for step in range(3, 5):
        total, expected = compiled(*data(step)), plain.criterion(plain.losses(*data(step)))
        torch.testing.assert_close(total, expected)
        total.backward()
        expected.backward()
    torch.testing.assert_close(training.criterion.weights, plain.criterion.weights)
