from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torchjd import scalarization

from lossbalance import WeightedLoss
from lossbalance.weighting import Observation, Scalarizer
from tests.helpers.compiler import skip_where_the_compiler_cannot_differentiate

TERMS = ["a", "b"]
RATIO = torch.tensor([0.3, 0.7])
MODULES = {
    "COSMOS": lambda: scalarization.COSMOS(1.0, RATIO),
    "Constant": lambda: scalarization.Constant(RATIO),
    "DWA": lambda: scalarization.DWA(),
    "FAMO": lambda: scalarization.FAMO(2),
    "GeometricMean": lambda: scalarization.GeometricMean(),
    "IMTLL": lambda: scalarization.IMTLL(2),
    "Mean": lambda: scalarization.Mean(),
    "PBI": lambda: scalarization.PBI(5.0, RATIO),
    "Random": lambda: scalarization.Random(),
    "STCH": lambda: scalarization.STCH(0.5),
    "Sum": lambda: scalarization.Sum(),
    "UW": lambda: scalarization.UW(2),
}
COMPILED = sorted(MODULES.keys() - {"DWA", "FAMO", "GeometricMean"})


def make(name, **settings):
    return WeightedLoss(Scalarizer(TERMS, MODULES[name](), **settings))


def losses(a, b):
    return {"a": torch.tensor(a, requires_grad=True), "b": None if b is None else torch.tensor(b, requires_grad=True)}


def train(name, steps=6):
    """Returns the criterion, after steps of Adam, and the losses it met."""
    torch.manual_seed(0)
    criterion, x = make(name, period=2), nn.Parameter(torch.tensor([1.0, 3.0]))
    optimizer = torch.optim.Adam([x, *criterion.parameters()], lr=0.1)
    met = []
    for _ in range(steps):
        optimizer.zero_grad()
        row = x.square()
        met.append(row.detach())
        criterion(dict(zip(TERMS, row, strict=True))).backward()
        optimizer.step()
    return criterion, met


def test_the_smooth_maximum_of_equal_losses_shares_the_weight():
    total, weights = Scalarizer(["a", "b"], scalarization.STCH(mu=1.0, weights=torch.ones(2)))(torch.tensor([2.0, 2.0]))
    torch.testing.assert_close(total, torch.tensor(2.0) + torch.tensor(2.0).log())
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("name", MODULES)
def test_every_scalarizer_of_torchjd_gives_its_own_value_and_gradient(name):
    criterion, _ = train(name)
    criterion.zero_grad()
    scheme, reference = criterion.weighting, deepcopy(criterion.weighting.module)
    row, present = torch.tensor([0.7, 5.0], requires_grad=True), torch.tensor([True, True])
    copy = row.detach().clone().requires_grad_()
    scheme.eval()  # so that observing does not come between the two

    torch.manual_seed(1)
    total, weights = scheme.weigh(row, present)
    total.backward()
    torch.manual_seed(1)
    value = reference(copy)
    value.backward()

    torch.testing.assert_close(total, value)
    torch.testing.assert_close(row.grad, copy.grad)
    torch.testing.assert_close(weights, copy.grad)
    for ours, theirs in zip(scheme.module.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_an_epoch_of_dwa_ends_after_its_last_step_is_weighed_as_by_hand():
    _, met = train("DWA", steps=5)
    for steps, expected in [
        (4, torch.ones(2)),
        (5, 2 * torch.softmax(torch.stack(met[2:4]).mean(dim=0) / torch.stack(met[:2]).mean(dim=0) / 2.0, dim=0)),
    ]:
        criterion, _ = train("DWA", steps=steps)
        torch.testing.assert_close(torch.stack(list(criterion.weights.values())), expected)


@pytest.mark.parametrize("name", MODULES)
def test_a_step_that_is_not_finite_leaves_the_module_as_it_was(name):
    spared, hit = train(name, steps=5)[0], train(name, steps=5)[0]
    hit(losses(torch.nan, 2.0))
    torch.testing.assert_close(hit.state_dict(), spared.state_dict(), rtol=0, atol=0)
    for row in ((0.5, 4.0), (0.4, 1.0), (0.3, 1.0)):
        torch.manual_seed(0)
        total = hit(losses(*row))
        torch.manual_seed(0)
        assert torch.equal(total, spared(losses(*row)))


def test_famo_is_updated_with_the_losses_that_follow_its_step():
    criterion, met = train("FAMO", steps=4)
    reference = scalarization.FAMO(2)
    for before, after in pairwise(met):
        reference(before)
        reference.update(after)
    torch.testing.assert_close(criterion.weighting.module._w, reference._w)
    assert reference._w.abs().min() > 0


@pytest.mark.parametrize("name", MODULES)
def test_eval_leaves_no_trace(name):
    criterion, _ = train(name)
    before, attributes = deepcopy(criterion.state_dict()), deepcopy(vars(criterion.weighting.module))
    with torch.no_grad():
        criterion.eval()(losses(100.0, 200.0))
    torch.testing.assert_close(criterion.state_dict(), before, rtol=0, atol=0)
    assert str(vars(criterion.weighting.module)["_buffers"]) == str(attributes["_buffers"])


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"FAMO", "Random"}))
def test_a_resumed_module_goes_on_as_if_nothing_had_happened(name):
    whole, _ = train(name, steps=5)
    resumed = make(name, period=2)
    resumed.load_state_dict(deepcopy(whole.state_dict()))
    for row in (losses(0.5, 4.0), losses(0.4, None), losses(0.3, 2.0)):
        assert torch.equal(whole(row), resumed(row))
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", MODULES)
def test_an_absent_term_has_no_weight_and_moves_no_parameter_of_its_own(name):
    criterion, _ = train(name)
    criterion.zero_grad()
    total = criterion(losses(1.0, None))
    total.backward()
    assert total.isfinite()
    assert criterion.weights["b"] == 0
    for parameter in criterion.parameters():
        assert parameter.grad is None or parameter.grad[1] == 0


@pytest.mark.parametrize("name", MODULES)
def test_a_step_that_is_not_finite_gives_no_parameter_a_gradient_and_poisons_no_state(name):
    criterion, _ = train(name)
    criterion.zero_grad()
    total = criterion(losses(torch.nan, 2.0))
    total.backward()
    assert not total.isfinite()
    for parameter in criterion.parameters():
        assert parameter.grad is None or not parameter.grad.any()
    assert criterion(losses(1.0, 2.0)).isfinite()


def test_the_weights_are_those_of_the_row_averaged_over_ranks():
    scheme = Scalarizer(TERMS, scalarization.GeometricMean())
    mean, own, seen = torch.tensor([2.0, 8.0]), torch.tensor([3.0, 8.0]), torch.tensor([True, True])
    with torch.no_grad():
        scheme.observe(Observation(mean, torch.zeros(2), seen))
    total, weights = scheme.weigh(own, seen)
    torch.testing.assert_close(weights, torch.tensor([1.0, 0.25]))
    torch.testing.assert_close(total, torch.tensor(4.0 + 1.0))  # so the mean of the totals is that of the mean row


def test_a_buffer_moves_once_per_training_step():
    class Centered(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, row):
            self.calls += 1
            return row.sum()

    criterion = WeightedLoss(Scalarizer(TERMS, Centered()))
    for _ in range(3):
        criterion(losses(1.0, 2.0))
    criterion.eval()(losses(1.0, 2.0))
    assert criterion.weighting.module.calls.item() == 3


@pytest.mark.parametrize("name", COMPILED)
def test_what_neither_counts_nor_branches_compiles_into_one_graph(name):
    skip_where_the_compiler_cannot_differentiate()
    torch._dynamo.reset()
    torch.manual_seed(0)
    criterion = make(name)
    call = torch.compile(lambda row: criterion(dict(zip(TERMS, row, strict=True))), backend="aot_eager", fullgraph=True)
    for scale in (1.0, 2.0):
        row = torch.tensor([scale, 3.0], requires_grad=True)
        call(row).backward()
        torch.testing.assert_close(row.grad, torch.stack(list(criterion.weights.values())))


def test_a_plain_function_is_a_scheme_too():
    row = torch.tensor([1.0, 3.0], requires_grad=True)
    total, weights = Scalarizer(TERMS, torch.linalg.vector_norm)(row)
    total.backward()
    assert total.item() == pytest.approx(10**0.5)
    torch.testing.assert_close(row.grad, weights)


def test_what_is_no_scalarizer_is_refused():
    with pytest.raises(TypeError, match="`module` must be callable with a row of losses, got 'UW'"):
        Scalarizer(TERMS, "UW")
    with pytest.raises(ValueError, match=r"`module` must return a scalar tensor, got shape \[2\]"):
        Scalarizer(TERMS, nn.Identity())(torch.ones(2))
    with pytest.raises(ValueError, match="`period` must be a positive number of training steps, got 0"):
        Scalarizer(TERMS, torch.sum, period=0)


def test_a_module_without_a_finite_gradient_is_refused_by_the_name_of_the_term():
    scheme = Scalarizer(["zero", "main"], lambda losses: losses.log().mean().exp())
    with pytest.raises(ValueError, match=r"has a finite gradient, got \{'zero': 0.0\}: add to such a term"):
        scheme(torch.tensor([0.0, 2.0]))
    scheme = Scalarizer(["negative", "main"], lambda losses: losses.log().sum())
    scheme(torch.tensor([1.0, 2.0]))
    scheme.eval()
    scheme.train()
    scheme(torch.tensor([0.0, 2.0]))
    with pytest.raises(ValueError, match=r"got \{'negative': 0.0\}"):
        scheme.eval()
