import math
from copy import deepcopy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchjd.scalarization import UW

from lossbalance import WeightedLoss
from lossbalance.penalties import L2
from lossbalance.weighting import Equal, Observation, Uncertainty

LIKELIHOODS = ["gaussian", "laplace", "classification"]


def test_at_the_optimum_each_weighted_loss_is_one_half():
    losses = torch.tensor([0.02, 300.0])
    scheme = Uncertainty(["small", "large"])
    scheme.log_variance.data = losses.log()  # where dT/ds_i = 0

    total, weights = scheme(losses)

    torch.testing.assert_close(weights * losses, torch.tensor([0.5, 0.5]))
    total.backward()
    torch.testing.assert_close(scheme.log_variance.grad, torch.zeros(2))


@pytest.mark.parametrize(
    ("likelihood", "regularizer", "total", "weight"),
    [  # L = 8 and s = ln 2, so e^-s = 1/2
        ("gaussian", "log", 0.5 * 0.5 * 8 + 0.5 * math.log(2), 0.25),
        ("laplace", "log", 0.5 * 8 + math.log(2), 0.5),
        ("classification", "log", 0.5 * 8 + 0.5 * math.log(2), 0.5),
        ("gaussian", "log1p", 0.5 * 0.5 * 8 + math.log(3), 0.25),
        ("classification", "log1p", 0.5 * 8 + math.log(3), 0.5),
    ],
)
def test_each_likelihood_is_what_its_formula_says(likelihood, regularizer, total, weight):
    scheme = Uncertainty(["data"], likelihood, regularizer, initial_log_variance=math.log(2))

    found, weights = scheme(torch.tensor([8.0]))

    assert found.item() == pytest.approx(total, rel=1e-6)
    assert weights.item() == pytest.approx(weight, rel=1e-6)


def test_a_laplace_total_is_the_likelihood_of_the_errors():
    errors = torch.tensor([0.3, -2.0, 1.1])
    scheme = Uncertainty(["data"], "laplace")

    total, _ = scheme(errors.abs().mean().unsqueeze(0))

    b = scheme.log_variance.detach().exp()
    likelihood = torch.distributions.Laplace(torch.zeros(1), b).log_prob(errors).mean()
    torch.testing.assert_close(total, -likelihood - math.log(2))


def test_it_equals_an_independent_implementation_in_value_and_gradient():
    torch.manual_seed(0)
    ours, theirs = Uncertainty(["a", "b", "c"], initial_log_variance=0.0), UW(3)
    for _ in range(20):
        losses = (10 * torch.rand(3)).requires_grad_()
        copy = losses.detach().clone().requires_grad_()
        total, reference = ours(losses)[0], theirs(copy)

        grads = torch.autograd.grad(total, [losses, ours.log_variance])
        references = torch.autograd.grad(reference, [copy, theirs.log_var])

        torch.testing.assert_close([total, *grads], [reference, *references], rtol=1e-6, atol=1e-6)
        for s, grad in ((ours.log_variance, grads[1]), (theirs.log_var, references[1])):
            s.data.sub_(grad, alpha=0.1)


def test_each_term_may_have_a_likelihood_of_its_own():
    kinds = {"depth": "laplace", "class": "classification", "pose": "gaussian"}
    scheme = Uncertainty(["pose", "depth", "class"], kinds)

    _, weights = scheme(torch.tensor([4.0, 4.0, 4.0]))

    torch.testing.assert_close(weights, torch.tensor([1 / 8, 1 / 4, 1 / 8]))


@pytest.mark.parametrize("regularizer", ["log", "log1p"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_auto_starts_at_the_optimum_of_the_first_losses(likelihood, regularizer):
    losses = torch.tensor([1e-6, 0.5, 1e6])
    scheme = Uncertainty(["small", "middle", "large"], likelihood, regularizer)

    total, weights = scheme(losses)

    total.backward()
    assert scheme.log_variance.grad.abs().max() < 1e-5
    if regularizer == "log":
        assert (weights * losses).unique().numel() == 1 or (weights * losses).std() < 1e-5
    else:
        assert weights[0].item() == pytest.approx(scheme._a[0].item() ** 0.5 / 1e-3, rel=1e-2)  # about 1 / sqrt(2 L)


def test_auto_starts_at_the_optimum_of_the_mean_of_the_first_five_losses():
    scheme, losses = Uncertainty(["a", "b"]), [8.0, 1.0, 3.0, 2.0, 6.0, 500.0, 500.0]
    for step, loss in enumerate(losses, start=1):
        scheme(torch.tensor([loss, 10 * loss]))
        mean = sum(losses[: min(step, 5)]) / min(step, 5)
        torch.testing.assert_close(scheme.log_variance.detach(), torch.tensor([mean, 10 * mean]).log())
        assert scheme.started.tolist() == [step >= 5] * 2


def test_each_term_counts_its_own_first_losses():
    criterion = WeightedLoss(Uncertainty(["a", "b"]))
    for step in range(12):
        criterion({"a": torch.tensor(2.0), "b": torch.tensor(float(step)) if step in (6, 8, 10) else None})
    assert criterion.weighting.started.tolist() == [True, False]
    torch.testing.assert_close(criterion.weighting.log_variance.detach(), torch.tensor([2.0, 8.0]).log())


def test_a_log_variance_is_trained_from_the_sixth_loss_on_and_by_no_optimizer_before():
    criterion = WeightedLoss(Uncertainty(["a", "b"], initial_log_variance={"a": "auto", "b": 0.0}))
    optimizer = torch.optim.Adam(criterion.parameter_groups(lr=0.1))
    for step in range(1, 8):
        optimizer.zero_grad()
        loss = torch.tensor(4.0 if step < 6 else 40.0)
        criterion({"a": loss, "b": loss}).backward()
        moves = criterion.weighting.log_variance.grad != 0
        assert moves.tolist() == [step > 5, True]
        optimizer.step()
    assert criterion.weighting.log_variance[0] > math.log(4)


def test_some_terms_may_start_by_themselves_and_others_at_a_number():
    scheme = Uncertainty(["a", "b"], initial_log_variance={"a": "auto", "b": -1.5})

    scheme(torch.tensor([100.0, 100.0]))

    torch.testing.assert_close(scheme.log_variance.detach(), torch.tensor([math.log(100), -1.5]))


@pytest.mark.parametrize("first", [None, torch.tensor(torch.nan), torch.tensor(torch.inf)])
def test_a_first_batch_without_a_sound_loss_leaves_the_start_to_the_next(first):
    criterion = WeightedLoss(Uncertainty(["a", "b"]))
    scheme = criterion.weighting

    criterion({"a": torch.tensor(4.0), "b": first})
    assert not scheme.started[1]
    criterion({"a": torch.tensor(9.0), "b": torch.tensor(1e5)})

    expected = torch.tensor([9.0 if first is not None else 6.5, 1e5]).log()  # a step that is not finite leaves no trace
    torch.testing.assert_close(scheme.log_variance.detach(), expected)


def test_auto_takes_the_average_over_ranks_and_not_the_loss_of_its_own():
    scheme = Uncertainty(["a"])
    row, seen = torch.tensor([3.0]), torch.tensor([True])

    with torch.no_grad():
        scheme.observe(Observation(torch.tensor([5.0]), torch.zeros(1), seen))
    _, weights = scheme.weigh(row, seen)

    torch.testing.assert_close(weights, torch.tensor([0.1]))


def test_before_training_eval_halves_the_losses():
    criterion = WeightedLoss(Uncertainty(["a", "b"])).eval()
    state = deepcopy(criterion.state_dict())

    assert criterion({"a": torch.tensor(4.0), "b": torch.tensor(6.0)}).item() == 5
    torch.testing.assert_close(criterion.state_dict(), state, rtol=0, atol=0)


def test_an_absent_term_pays_nothing_and_moves_nothing():
    scheme = Uncertainty(["here", "absent"], initial_log_variance={"here": 0.0, "absent": 3.0})

    total, weights = scheme.weigh(torch.tensor([4.0, 0.0]), torch.tensor([True, False]))
    total.backward()

    assert total.item() == 2
    assert weights.tolist() == [0.5, 0.0]
    assert scheme.log_variance.grad.tolist() == [-1.5, 0.0]


@pytest.mark.parametrize("regularizer", ["log", "log1p"])
@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_step_that_is_not_finite_leaves_the_log_variances_where_they_are(regularizer, broken):
    criterion = WeightedLoss(Uncertainty(["a", "b"], regularizer=regularizer))
    optimizer = torch.optim.SGD(criterion.parameter_groups(lr=1.0))
    criterion({"a": torch.tensor(2.0), "b": torch.tensor(3.0)})
    before = criterion.weighting.log_variance.detach().clone()

    total = criterion({"a": torch.tensor(broken, requires_grad=True), "b": torch.tensor(7.0, requires_grad=True)})
    total.backward()
    optimizer.step()

    assert not total.isfinite()
    assert torch.equal(criterion.weighting.log_variance, before)


def test_weights_are_the_derivative_of_the_total_in_double_precision_too():
    losses = torch.tensor([0.3, 20.0], dtype=torch.float64, requires_grad=True)

    total, weights = Uncertainty(["a", "b"], "laplace", "log1p")(losses)
    (grad,) = torch.autograd.grad(total, losses)

    assert weights.dtype == torch.float64
    torch.testing.assert_close(weights, grad, rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", [-2.0, 0.0])
def test_a_first_loss_without_a_logarithm_is_refused_by_name(loss):
    criterion = WeightedLoss(Uncertainty(["data", "physics"]))
    with pytest.raises(ValueError, match=rf"`losses` must be above 0 for Uncertainty, got \{{'physics': {loss}\}}"):
        criterion({"data": torch.tensor(1.0), "physics": torch.tensor(loss)})


def test_a_loss_that_turns_negative_later_is_refused_at_the_next_switch_of_mode_and_only_there():
    criterion = WeightedLoss(Uncertainty(["data", "physics"]))
    for loss in (1.0, -0.5, 2.0):
        criterion({"data": torch.tensor(1.0), "physics": torch.tensor(loss)})

    with pytest.raises(ValueError, match=r"got \{'physics': -0.5\}"):
        criterion.eval()
    criterion.eval()  # once is enough


def test_a_loss_may_be_zero_once_its_log_variance_has_started():
    criterion = WeightedLoss(Uncertainty(["data", "hinge"]))
    for loss in (1.0, 2.0, 3.0, 4.0, 5.0, 0.0):
        criterion({"data": torch.tensor(1.0), "hinge": torch.tensor(loss)})
    criterion.eval()


@pytest.mark.parametrize("s", [-1000.0, 1000.0])
@pytest.mark.parametrize("training", [True, False])
def test_no_weight_overflows_whatever_the_log_variance(s, training):
    scheme = Uncertainty(["a"], initial_log_variance=0.0).train(training)
    scheme.log_variance.data.fill_(s)

    total, weights = scheme(torch.tensor([1e3]))

    assert weights.isfinite().all()
    assert weights.item() > 0
    assert total.isfinite()


def test_a_loss_that_stays_at_zero_meets_the_bound_and_a_warning_and_finds_back():
    criterion = WeightedLoss(Uncertainty(["a"], initial_log_variance=0.0))
    optimizer = torch.optim.SGD(criterion.parameter_groups(lr=100.0))
    for _ in range(3):
        optimizer.zero_grad()
        criterion({"a": torch.tensor(0.0)}).backward()
        optimizer.step()
    criterion({"a": torch.tensor(0.0)})

    with pytest.warns(UserWarning, match=r"The loss of \['a'\] stays at 0"):
        criterion.eval()
    with pytest.warns(UserWarning, match="stays at 0"):
        criterion.train()
    optimizer.zero_grad()
    criterion({"a": torch.tensor(1.0)}).backward()
    assert criterion.weighting.log_variance.grad.item() < 0  # a step of descent raises it again


def test_two_calls_may_share_one_backward_pass():
    criterion = WeightedLoss(Uncertainty(["a"], regularizer="log1p"))
    total = sum(criterion({"a": torch.tensor(loss)}) for loss in (2.0, 3.0))
    total.backward()
    assert criterion.weighting.log_variance.grad.isfinite().all()


def test_the_host_waits_for_no_value_after_the_first_step():
    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            assert "local_scalar" not in str(function)
            return function(*args, **(kwargs or {}))

    criterion = WeightedLoss(Uncertainty(["a", "b"]))
    losses = {"a": torch.tensor(1.0), "b": torch.tensor(2.0)}
    criterion(losses)
    with Watch():
        for _ in range(3):
            criterion(losses).backward()


def test_penalties_are_not_weighed():
    scheme, net = Uncertainty(["a"], initial_log_variance=2.0), torch.nn.Linear(3, 1)
    plain = WeightedLoss(scheme)({"a": torch.tensor(1.0)})
    penalized = WeightedLoss(scheme, {"l2": L2(1.0)})({"a": torch.tensor(1.0)}, module=net)
    torch.testing.assert_close(penalized - plain, net.weight.square().sum())


def test_its_parameter_group_has_a_rate_of_its_own_and_no_weight_decay():
    criterion, net = WeightedLoss(Uncertainty(["a"], lr=0.5)), torch.nn.Linear(1, 1)
    groups = [{"params": net.parameters()}, *criterion.parameter_groups()]
    assert criterion.parameter_groups(lr=0.1)[0]["lr"] == 0.1
    assert WeightedLoss(Equal(["a"])).parameter_groups() == []

    optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1)

    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(1e-3, 0.1), (0.5, 0.0)]
    assert optimizer.param_groups[1]["params"] == [criterion.weighting.log_variance]


def test_a_run_resumed_after_any_step_equals_the_uninterrupted_one_bit_for_bit():
    def start():
        torch.manual_seed(0)
        net = torch.nn.Linear(4, 2)
        criterion = WeightedLoss(Uncertainty(["a", "b"]))
        groups = [{"params": net.parameters()}, *criterion.parameter_groups(lr=0.1)]
        return net, criterion, torch.optim.AdamW(groups, lr=1e-2)

    def step(run, number):
        net, criterion, optimizer = run
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(number))
        a, b = (net(x) - x[:, :2] * torch.tensor([1.0, 300.0])).square().mean(dim=0)
        optimizer.zero_grad()
        criterion({"a": a, "b": None if number == 0 else b}).backward()
        optimizer.step()

    def state(run):
        return deepcopy([part.state_dict() for part in run])

    whole, states = start(), []
    for number in range(5):
        states.append(state(whole))
        step(whole, number)

    for stop, saved in enumerate(states):
        resumed = start()
        for part, part_state in zip(resumed, saved, strict=True):
            part.load_state_dict(deepcopy(part_state))
        for number in range(stop, 5):
            step(resumed, number)
        torch.testing.assert_close(state(resumed), state(whole), rtol=0, atol=0)


@pytest.mark.parametrize("regularizer", ["log", "log1p"])
def test_it_compiles_into_one_graph_first_step_included(regularizer):
    eager = WeightedLoss(Uncertainty(["a", "b"], regularizer=regularizer))
    compiled = deepcopy(eager)
    call = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    for scale in (1.0, 2.0, 3.0):
        losses = {"a": torch.tensor(scale), "b": torch.tensor(100.0 / scale)}
        total, reference = call(losses), eager(losses)
        total.backward()
        reference.backward()
        torch.testing.assert_close(total, reference)
    torch.testing.assert_close(compiled.state_dict(), eager.state_dict())
    torch.testing.assert_close(compiled.weighting.log_variance.grad, eager.weighting.log_variance.grad)


def test_it_stays_in_single_precision_under_autocast():
    criterion = WeightedLoss(Uncertainty(["a"])).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        total = criterion({"a": torch.tensor(1.001).bfloat16().requires_grad_()})
    assert total.dtype == criterion.weights["a"].dtype == criterion.weighting.log_variance.dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"likelihood": "gausian"}, r"`likelihood` must be one of .*, got 'gausian' \(did you mean 'gaussian'\?\)"),
        ({"likelihood": {"a": "gaussian"}}, r"`likelihood` must name each term .* missing \['b'\]"),
        ({"likelihood": {"a": "gaussian", "b": 1}}, r"`likelihood\['b'\]` must be one of"),
        ({"regularizer": "log2"}, r"`regularizer` must be one of \['log', 'log1p'\], got 'log2'"),
        ({"initial_log_variance": "atuo"}, r"`initial_log_variance` must be .*'auto'"),
        ({"lr": 0.0}, "`lr` must be a positive, finite number, got 0.0"),
        ({"initial_log_variance": math.nan}, "`initial_log_variance` must be 'auto' or a number"),
        ({"initial_log_variance": {"a": 0.0, "b": 100}}, r"`initial_log_variance\['b'\]` must be .* got 100"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Uncertainty(["a", "b"], **settings)


def test_an_initial_log_variance_of_another_type_is_refused():
    with pytest.raises(TypeError, match="`initial_log_variance` must be 'auto' or a number"):
        Uncertainty(["a"], initial_log_variance=[0.0])
