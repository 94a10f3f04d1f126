"""Names to a row, a row to a total, and what is said about it."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lossbalance import WeightedLoss
from lossbalance.weighting import Alpha, Equal, Fixed, GradBalance, GradNorm, UncertaintySoftmax, Weighting
from tests.helpers.compiler import skip_where_the_compiler_cannot_differentiate


def two(aux: float = 2.0, main: float = 4.0) -> dict[str, Tensor]:
    return {"aux": torch.tensor(aux, requires_grad=True), "main": torch.tensor(main, requires_grad=True)}


@pytest.fixture
def criterion() -> WeightedLoss:
    return WeightedLoss(Fixed(["aux", "main"], weights={"aux": 0.5, "main": 3.0}))


def test_the_total_is_a_scalar_whose_gradients_are_the_weights(criterion):
    losses = two()

    total = criterion(losses)
    total.backward()

    assert total.shape == ()
    assert total.item() == 13.0
    assert (losses["aux"].grad.item(), losses["main"].grad.item()) == (0.5, 3.0)


def test_the_breakdown_has_every_part_of_the_total_detached(criterion):
    criterion(two())

    last = criterion.last
    assert last.total.item() == 13.0
    assert {term: loss.item() for term, loss in last.losses.items()} == {"aux": 2.0, "main": 4.0}
    assert {term: weight.item() for term, weight in last.weights.items()} == {"aux": 0.5, "main": 3.0}
    assert {term: part.item() for term, part in last.contributions.items()} == {"aux": 1.0, "main": 12.0}
    assert last.penalties == {}
    assert last.gradient_shares == {}
    assert not any(part.requires_grad for part in [last.total, *last.losses.values(), *last.weights.values()])


def test_the_breakdown_of_no_call_is_an_error(criterion):
    with pytest.raises(RuntimeError, match="`last` describes the last call, and there was none"):
        _ = criterion.last


def test_weights_are_known_before_the_first_call(criterion):
    assert {term: weight.item() for term, weight in criterion.weights.items()} == {"aux": 0.5, "main": 3.0}


def test_the_order_of_the_mapping_does_not_matter(criterion):
    losses = two()
    assert criterion(losses).item() == criterion(dict(reversed(losses.items()))).item()


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"aux": 1.0, "mian": 1.0}, r"missing \['main'\]; unknown 'mian' \(did you mean 'main'\?\)"),
        ({"aux": 1.0}, r"`losses` must name each term of \['aux', 'main'\] once: missing \['main'\]"),
        ({"aux": 1.0, "main": 1.0, "physics": 1.0}, "unknown 'physics'"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(criterion, losses, message):
    with pytest.raises(ValueError, match=message):
        criterion({name: torch.tensor(loss) for name, loss in losses.items()})


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (torch.ones(3), ValueError, r"`losses\['aux'\]` must be a scalar, got shape \[3\]: reduce it"),
        (torch.ones(1), ValueError, r"must be a scalar, got shape \[1\]"),
        (torch.tensor(1), TypeError, "floating point, got torch.int64"),
        (torch.tensor(1j), TypeError, "floating point, got torch.complex64"),
        (1.0, TypeError, "got float: pass None for an absent term"),
        (torch.ones((), device="meta"), ValueError, "is on meta, the criterion on cpu"),
    ],
)
def test_what_is_not_a_loss_is_refused(criterion, loss, error, message):
    with pytest.raises(error, match=message):
        criterion({"aux": loss, "main": torch.tensor(1.0)})


def test_a_term_named_twice_is_refused():
    with pytest.raises(ValueError, match=r"`terms` must name each term once, got \['aux'\] more than once"):
        Equal(["aux", "aux", "main"])


@pytest.mark.parametrize("terms", ["aux", ["aux", 3], []])
def test_terms_must_be_a_list_of_names(terms):
    with pytest.raises((TypeError, ValueError), match="`terms` must"):
        Equal(terms)


@pytest.mark.parametrize("lr", [math.nan, math.inf, -1.0, "fast"])
def test_a_group_of_parameters_has_no_rate_that_is_no_number(lr):
    with pytest.raises((TypeError, ValueError), match="`lr` must be a number, finite and not negative, got"):
        WeightedLoss(Equal(["aux", "main"])).parameter_groups(lr=lr)


@pytest.mark.parametrize("weight_sum", [0, -1.0, math.nan, math.inf, "one"])
def test_a_weight_sum_that_is_no_positive_number_is_refused(weight_sum):
    with pytest.raises((TypeError, ValueError), match="`weight_sum` must be a positive, finite number or None"):
        WeightedLoss(Equal(["aux", "main"]), weight_sum=weight_sum)


def test_only_schemes_weigh_and_only_penalties_penalize():
    with pytest.raises(TypeError, match="`weighting` must be a scheme"):
        WeightedLoss(nn.Linear(1, 1))
    with pytest.raises(TypeError, match=r"`penalties\['l2'\]` must be a penalty"):
        WeightedLoss(Equal(["aux"]), penalties={"l2": nn.Linear(1, 1)})


def test_an_absent_term_weighs_nothing(criterion):
    losses = two()

    total = criterion({**losses, "aux": None})
    total.backward()

    assert total.item() == 12.0
    assert losses["aux"].grad is None
    assert criterion.weights["aux"].item() == 0
    assert criterion.last.contributions["aux"].item() == 0
    assert math.isnan(criterion.last.losses["aux"].item())


def test_a_step_with_no_term_at_all_can_still_be_stepped(criterion):
    total = criterion({"aux": None, "main": None})
    total.backward()
    assert total.item() == 0


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_makes_the_total_not_finite(criterion, broken):
    assert not criterion(two(main=broken)).isfinite()


@pytest.mark.parametrize(("aux", "main"), [(2.0, 4.0), (None, 4.0)])
def test_the_weights_add_up_to_the_weight_sum(aux, main):
    criterion = WeightedLoss(Fixed(["aux", "main"], weights={"aux": 0.5, "main": 3.0}), weight_sum=7.0)
    losses = {"aux": aux, "main": main}
    losses = {term: None if loss is None else torch.tensor(loss, requires_grad=True) for term, loss in losses.items()}

    criterion(losses).backward()

    absent = 1.0 if aux is None else 0.0  # its part of the sum, which no other term takes
    torch.testing.assert_close(sum(criterion.weights.values()), torch.tensor(7.0 - absent))
    for term, loss in losses.items():
        if loss is not None:
            torch.testing.assert_close(loss.grad, criterion.weights[term])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_of_half_precision_are_combined_in_single(dtype):
    criterion = WeightedLoss(Equal(["a", "b"]))
    total = criterion({"a": torch.tensor(256.0, dtype=dtype), "b": torch.tensor(0.5, dtype=dtype)})
    assert total.dtype == torch.float32
    assert total.item() == 256.5  # bf16 would say 256


def test_losses_of_double_precision_stay_double():
    criterion = WeightedLoss(Equal(["a", "b"]))
    total = criterion({"a": torch.tensor(1.0), "b": torch.tensor(1e-12, dtype=torch.float64)})
    assert total.item() == 1 + 1e-12


def test_a_model_cast_to_half_precision_keeps_its_weights():
    criterion = WeightedLoss(Alpha(["a", "b"], alpha=0.3)).to(torch.bfloat16)
    torch.testing.assert_close(criterion.weights["a"], torch.tensor(0.3))


def test_two_terms_add_no_more_than_a_stack_and_one_multiply_and_sum(criterion):
    total = criterion(two())

    nodes, ahead = [], [total.grad_fn]
    while ahead:
        node = ahead.pop()
        nodes.append(type(node).__name__.rstrip("0123456789"))
        ahead += [following for following, _ in node.next_functions if following is not None]

    assert [node for node in nodes if node != "AccumulateGrad"] == ["DotBackward", "StackBackward"]


class CountQuestions(TorchDispatchMode):
    """Counts how often the device is asked for a value."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_the_counter_of_questions_counts():
    with CountQuestions() as questions:
        torch.ones(()).item()
    assert questions.count == 1


@pytest.mark.parametrize("weight_sum", [None, 1.0])
def test_no_step_asks_the_device_for_a_value(weight_sum):
    model, criterion = Branches(), WeightedLoss(GradBalance(["aux", "main"]), weight_sum=weight_sum)
    with CountQuestions() as questions:
        for absent in (None, None, "aux", None):
            losses = model.losses(criterion)
            criterion({term: None if term == absent else loss for term, loss in losses.items()}).backward()
    assert questions.count == 0


class Branches(nn.Module):
    """A trunk of two layers with the aux head on the first and the main head on the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 5)
        self.aux, self.main = nn.Linear(6, 2), nn.Linear(5, 1)

    def losses(self, criterion: WeightedLoss, x: Tensor | None = None) -> dict[str, Tensor]:
        x = torch.linspace(-1, 1, 32).view(8, 4) if x is None else x
        h = self.first(x).tanh()
        aux = self.aux(criterion.probe("aux", h)).square().mean()
        main = self.main(criterion.probe("main", self.second(h).tanh())).exp().mean()
        return {"aux": 100 * aux, "main": main}


SCHEMES = [
    lambda: Equal(["aux", "main"]),
    lambda: Alpha(["aux", "main"], alpha=0.25),
    lambda: GradBalance(["aux", "main"]),
    lambda: GradNorm(["aux", "main"]),
]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_evaluation_leaves_no_trace(scheme):
    model, criterion = Branches(), WeightedLoss(scheme())
    criterion(model.losses(criterion)).backward()
    before = copy.deepcopy(criterion.state_dict())

    criterion.eval()
    for _ in range(3):
        criterion(model.losses(criterion, torch.randn(8, 4)))
    with torch.no_grad():
        criterion(model.losses(criterion, torch.randn(8, 4)))

    torch.testing.assert_close(criterion.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("stop", [0, 1, 3])
def test_a_resumed_run_goes_on_bit_for_bit(scheme, stop):
    def train(model: Branches, criterion: WeightedLoss, steps: range) -> list[float]:
        totals = []
        for step in steps:
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
            model.zero_grad()
            total = criterion(model.losses(criterion, x))
            total.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.1 * parameter.grad
            totals.append(total.item())
        return totals

    torch.manual_seed(0)
    model, criterion = Branches(), WeightedLoss(scheme())
    train(model, criterion, range(stop))
    resumed_model, resumed = Branches(), WeightedLoss(scheme())
    resumed_model.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(criterion.state_dict()))

    assert train(resumed_model, resumed, range(stop, 6)) == train(model, criterion, range(stop, 6))


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_step_that_is_not_finite_leaves_the_state_as_it_was(scheme, broken):
    torch.manual_seed(0)
    model, criterion = Branches(), WeightedLoss(scheme())
    for _ in range(3):
        criterion(model.losses(criterion)).backward()
    undisturbed = copy.deepcopy(criterion)
    before = copy.deepcopy(criterion.weighting.state_dict())

    losses = model.losses(criterion)
    total = criterion({**losses, "aux": losses["aux"] * broken})
    total.backward()

    assert not total.isfinite()
    torch.testing.assert_close(criterion.weighting.state_dict(), before, rtol=0, atol=0)
    criterion(model.losses(criterion))
    undisturbed(model.losses(undisturbed))
    torch.testing.assert_close(criterion.weights, undisturbed.weights, rtol=0, atol=0)


class Halved(Weighting):
    """The smallest scheme that a user could write."""

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        weights = 0.5 * present
        return (weights * losses).sum(), weights


def test_a_new_scheme_is_one_method():
    assert WeightedLoss(Halved(["aux", "main"]))(two()).item() == 3.0


def test_a_scheme_without_that_method_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Weighting(["aux"])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_whole_step_compiles_to_one_graph(scheme):
    torch.manual_seed(0)
    if scheme().uses_gradients:
        skip_where_the_compiler_cannot_differentiate()
    model, criterion, eager = Branches(), WeightedLoss(scheme()), WeightedLoss(scheme())
    step = torch.compile(lambda x: criterion(model.losses(criterion, x)), fullgraph=True, backend="aot_eager")

    for seed in range(4):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
        expected = eager(model.losses(eager, x))
        expected.backward()
        total = step(x)
        total.backward()
        torch.testing.assert_close(total, expected)
        torch.testing.assert_close(criterion.last.gradient_shares, eager.last.gradient_shares)


def test_to_synchronize_changes_nothing_on_one_process():
    model = Branches()
    plain, synchronized = (WeightedLoss(GradBalance(["aux", "main"])) for _ in range(2))
    for _ in range(4):
        for criterion in (plain, synchronized):
            criterion(model.losses(criterion)).backward()
        synchronized.synchronize()
        torch.testing.assert_close(synchronized.weights, plain.weights, rtol=0, atol=0)


@pytest.mark.parametrize("scheme", [Equal(["a", "b"]), Alpha(["a", "b"], alpha=0.25), UncertaintySoftmax(["a", "b"])])
def test_a_weight_sum_does_not_depend_on_the_absence_of_a_term(scheme):
    criterion = WeightedLoss(scheme, weight_sum=1.0)
    losses = {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}
    criterion(losses)
    whole = criterion.eval().weights
    criterion({**losses, "b": None})
    assert criterion.weights == {"a": whole["a"], "b": torch.tensor(0.0)}
    criterion.set_factor("a", 0.0)
    criterion(losses)
    assert criterion.weights == {"a": torch.tensor(0.0), "b": whole["b"]}
