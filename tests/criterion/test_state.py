"""What is in a state, and which one fits."""

import contextlib
import copy
import json
import math
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import checkpoint

from lossbalance import WeightedLoss
from lossbalance.penalties import L2
from lossbalance.weighting import Alpha, Equal, Fixed, GradBalance, GradNorm, LRAnnealing, Uncertainty, Weighting
from tests.accelerator.schemes import SCHEMES as SCHEME_NAMES
from tests.accelerator.schemes import make_scheme


class Model(nn.Module):
    """Two or three heads on one layer, and the criterion beside them."""

    def __init__(self, scheme: Weighting, **settings) -> None:
        super().__init__()
        self.criterion = WeightedLoss(scheme, **settings)
        self.trunk = nn.Linear(3, 4)
        self.heads = nn.ModuleDict({term: nn.Linear(4, 1) for term in sorted(scheme.terms)})

    def step(self, seed: int) -> Tensor:
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        h = self.trunk(x).tanh()
        losses = {
            term: (10**i) * head(self.criterion.probe(term, h)).square().mean()
            for i, (term, head) in enumerate(self.heads.items())
        }
        total = self.criterion(losses)
        total.backward()
        return total.detach()


def trained(scheme: Weighting, **settings) -> Model:
    torch.manual_seed(0)
    model = Model(scheme, **settings)
    for seed in range(3):
        model.step(seed)
    return model


@pytest.mark.parametrize("scheme", [GradBalance, GradNorm, Uncertainty, Equal])
@pytest.mark.parametrize("strict", [True, False])
def test_the_same_terms_in_another_order_are_brought_in_order(scheme, strict):
    saved = trained(scheme(["a", "b", "c"]), loss_sum=3.0)
    other = Model(scheme(["c", "a", "b"]), loss_sum=3.0)
    other.load_state_dict(copy.deepcopy(saved.state_dict()), strict=strict)
    for seed in range(3, 6):
        torch.testing.assert_close(other.step(seed), saved.step(seed), rtol=1e-6, atol=0)
    torch.testing.assert_close(other.criterion.weights, {t: saved.criterion.weights[t] for t in "cab"})


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("terms", [["a", "x"], ["a", "b", "c"], ["a"]])
def test_other_terms_are_refused_with_both_lists(terms, strict):
    saved = trained(GradBalance(["a", "b"]))
    message = rf"the state must be one of the criterion's terms, \[{str(terms)[1:-1]}\], got one of \['a', 'b'\]"
    with pytest.raises(ValueError, match=message):
        Model(GradBalance(terms)).load_state_dict(saved.state_dict(), strict=strict)


@pytest.mark.parametrize("strict", [True, False])
def test_another_scheme_is_refused_with_both_names_and_a_cure(strict):
    saved = trained(GradBalance(["a", "b"]))
    message = (
        "the state is that of GradBalance, the criterion's scheme is GradNorm: make the criterion with GradBalance"
    )
    with pytest.raises(ValueError, match=message):
        WeightedLoss(GradNorm(["a", "b"])).load_state_dict(saved.criterion.state_dict(), strict=strict)


def test_an_order_that_matters_to_the_scheme_is_refused():
    saved = WeightedLoss(Alpha(["a", "b", "c"], alpha=0.2)).state_dict()
    WeightedLoss(Alpha(["a", "c", "b"], alpha=0.5)).load_state_dict(saved)
    with pytest.raises(ValueError, match="the state has 'a' for its first term, the criterion 'b'"):
        WeightedLoss(Alpha(["b", "a", "c"], alpha=0.5)).load_state_dict(saved)


def test_a_state_without_names_is_taken_in_the_order_of_the_terms_with_a_warning():
    saved, other = trained(GradBalance(["a", "b"])), Model(GradBalance(["a", "b"]))
    state = saved.state_dict()
    del state["criterion._extra_state"]
    with pytest.warns(UserWarning, match=r"no 'criterion._extra_state'.* of GradBalance .* order \['a', 'b'\]"):
        other.load_state_dict(state)
    assert torch.equal(other.step(3), saved.step(3))


def test_a_state_without_a_criterion_is_refused_by_torch():
    state = {name: value for name, value in trained(Equal(["a"])).state_dict().items() if "criterion" not in name}
    with pytest.raises(RuntimeError, match=r"criterion\._extra_state"):
        Model(Equal(["a"])).load_state_dict(state)


def test_a_state_is_made_of_tensors_for_formats_that_hold_nothing_else():
    state = trained(Uncertainty(["a", "b"])).state_dict()
    assert all(isinstance(value, Tensor) for value in state.values())


SCHEMES = [
    lambda: Fixed(["a", "b"], {"a": 0.5, "b": 2.0}),
    lambda: Alpha(["a", "b"], alpha=0.25),
    lambda: GradBalance(["a", "b"], ratios={"a": 1, "b": 3}),
    lambda: GradNorm(["a", "b"]),
    lambda: Uncertainty(["a", "b"], likelihood={"a": "gaussian", "b": "classification"}),
]


def emptied(model: Model, state: dict[str, Tensor]) -> None:
    model.to_empty(device="cpu")
    model.load_state_dict(state)


def assigned(model: Model, state: dict[str, Tensor]) -> None:
    model.load_state_dict(state, assign=True)


def one_by_one(model: Model, state: dict[str, Tensor]) -> None:
    """As ``PreTrainedModel.from_pretrained`` does: what the state does not hold gets memory, with anything in it."""
    for name, value in state.items():
        place, _, key = name.rpartition(".")
        module = model.get_submodule(place)
        if key == "_extra_state":
            module.set_extra_state(value)
        else:
            setattr(module, key, nn.Parameter(value) if key in module._parameters else value)
    for module in model.modules():
        for key in module._non_persistent_buffers_set:
            if getattr(module, key) is not None:
                setattr(module, key, torch.full_like(getattr(module, key), 7, device="cpu"))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("materialize", [emptied, assigned, one_by_one])
def test_a_criterion_made_on_the_meta_device_goes_on_from_a_state(scheme, materialize):
    saved = trained(scheme())
    with torch.device("meta"):
        model = Model(scheme())
    materialize(model, copy.deepcopy(saved.state_dict()))
    for seed in range(3, 6):
        assert torch.equal(model.step(seed), saved.step(seed))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_deferred_initialization_ends_in_the_values_of_the_constructor(scheme):
    with torch.device("meta"):
        model = Model(scheme())
    model.to_empty(device="cpu")
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    plain = Model(scheme())
    torch.testing.assert_close(model.criterion.state_dict(), plain.criterion.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(model.criterion.weights, plain.criterion.weights, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["l2.head", "keys", "training", "", 3])
def test_a_name_that_no_state_can_hold_is_refused(name):
    with pytest.raises(ValueError, match="`penalties` must have names that can be keys of a module's state, got"):
        WeightedLoss(Equal(["a"]), penalties={name: L2(1e-4)})


GRADIENT_SCHEMES = [GradBalance, GradNorm, LRAnnealing, Uncertainty, Equal]


def sizes(model: nn.Module) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (value.shape, value.dtype) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("scheme", GRADIENT_SCHEMES)
def test_the_size_of_a_state_never_changes(scheme):
    model = Model(scheme(["a", "b"]), penalties={"l2": L2(1e-4, mode="gradient")})
    before = sizes(model)
    for seed in range(2):
        with pytest.warns(UserWarning, match="l2") if seed else contextlib.nullcontext():
            model.step(seed)
    model.criterion.set_factor("a", 0.3)
    model.criterion.set_factor("l2", 5.0)
    assert sizes(model) == before


@pytest.mark.parametrize("scheme", GRADIENT_SCHEMES)
def test_a_state_goes_through_a_distributed_checkpoint_into_a_fresh_criterion(scheme, tmp_path):
    saved, other = trained(scheme(["a", "b"])), Model(scheme(["a", "b"]))
    saved.criterion.set_factor("a", 0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single process
        checkpoint.save(saved.state_dict(), checkpoint_id=tmp_path)
        state = other.state_dict()
        checkpoint.load(state, checkpoint_id=tmp_path)
    other.load_state_dict(state)
    assert other.criterion.factors == {"a": 0.3, "b": 1.0}
    for seed in range(3, 6):
        assert torch.equal(other.step(seed), saved.step(seed))


@pytest.mark.parametrize("scheme", GRADIENT_SCHEMES)
def test_an_average_over_states_is_a_state(scheme):
    first, second, other = trained(scheme(["a", "b"])), trained(scheme(["a", "b"])), Model(scheme(["a", "b"]))
    second.step(3)
    first.criterion.set_factor("a", 0.5)
    states = [first.state_dict(), second.state_dict(), second.state_dict()]
    other.load_state_dict({name: sum(state[name] for state in states) / 3 for name in states[0]})
    assert other.criterion.factors == {"a": pytest.approx(2.5 / 3), "b": 1.0}
    assert math.isfinite(other.step(4))


def test_a_state_of_an_earlier_version_is_read():
    saved = trained(GradBalance(["a", "b"]))
    state = saved.state_dict()
    text = json.dumps({"scheme": "GradBalance", "terms": ["a", "b"], "factors": {"b": 0.25}})
    state["criterion._extra_state"] = torch.tensor(list(text.encode()), dtype=torch.uint8)
    measured = state["criterion.probes._extra_state"]
    state["criterion.probes._extra_state"] = measured[[0, 1, 4]].float()
    other = Model(GradBalance(["a", "b"]))
    other.load_state_dict(state)
    saved.criterion.set_factor("b", 0.25)
    assert torch.equal(other.step(3), saved.step(3))


@pytest.mark.filterwarnings("ignore:The weights of")  # nothing is trained
@pytest.mark.parametrize("name", SCHEME_NAMES)
def test_a_scheme_made_in_half_precision_keeps_its_state_in_full(name):
    def weights(dtype: torch.dtype) -> dict[str, float]:
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        try:
            criterion = WeightedLoss(make_scheme(name, ["a", "b"])).to(dtype)
            x = torch.full((3,), 0.7, dtype=torch.float32, requires_grad=True)
            for step in range(6):
                a, b = criterion.probe("a", x), criterion.probe("b", x)
                criterion({"a": (1 + step) * a.square().sum(), "b": 300 * b.sum()}).backward()
            tensors = [value for value in criterion.state_dict().values() if isinstance(value, Tensor)]
            assert all(each.dtype.itemsize >= 4 for each in tensors if each.is_floating_point())
            return {term: weight.item() for term, weight in criterion.weights.items()}
        finally:
            torch.set_default_dtype(torch.float32)

    assert weights(torch.bfloat16) == weights(torch.float32)


@pytest.mark.parametrize("scheme", [Uncertainty, GradNorm])
def test_switching_modes_never_raises_and_switches_all(scheme):
    model = Model(scheme(["a", "b"]))
    with torch.no_grad() if scheme is Uncertainty else contextlib.nullcontext():
        for loss in (1.0, -1.0):
            losses = {term: 1e-3 * model.trunk.weight.sum() + loss for term in "ab"}
            model.criterion(losses, shared=model.trunk.weight)
    with pytest.warns(UserWarning, match=r"`losses` must be .* got \{'a': -\d.*, 'b': -\d.*\}"):
        model.eval()
    assert not any(module.training for module in model.modules())
    with torch.device("meta"):
        made = WeightedLoss(scheme(["a", "b"]))
    assert not made.eval().weighting.training


@pytest.mark.parametrize("argument", ["weight_sum", "loss_sum"])
def test_the_weights_before_the_first_call_are_those_that_losses_of_one_get(argument):
    def make() -> WeightedLoss:
        return WeightedLoss(Fixed(["a", "b"], weights={"a": 1.0, "b": 3.0}), **{argument: 2.0})

    criterion = make()
    assert criterion.weights == {"a": torch.tensor(0.5), "b": torch.tensor(1.5)}
    criterion({"a": torch.tensor(1.0), "b": torch.tensor(1.0)})
    torch.testing.assert_close(criterion.weights, make().weights)
