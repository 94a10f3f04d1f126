import math
from copy import deepcopy

import pytest
import torch
from torch import nn
from torchjd import scalarization

from lossbalance import WeightedLoss
from lossbalance.weighting import FAMO


def row(a, b):
    return {"a": torch.tensor(a), "b": None if b is None else torch.tensor(b)}


def test_told_the_losses_after_the_step_it_equals_an_independent_implementation():
    torch.manual_seed(0)
    criterion, theirs = WeightedLoss(FAMO(["a", "b", "c"]).double()), scalarization.FAMO(3).double()
    for _ in range(50):
        before, after = torch.rand(2, 3, dtype=torch.float64) + 0.1
        losses = before.clone().requires_grad_()
        theirs(losses).backward()
        criterion(dict(zip("abc", before, strict=True)))
        torch.testing.assert_close(torch.stack(list(criterion.weights.values())), losses.grad, rtol=1e-6, atol=0)
        theirs.update(after)
        criterion.weighting.update(dict(zip("abc", after, strict=True)))
    torch.testing.assert_close(criterion.weighting.logit, theirs._w.detach(), rtol=1e-6, atol=0)


def test_a_term_that_falls_faster_loses_weight_whether_told_or_not():
    for told in (True, False):
        criterion, before = WeightedLoss(FAMO(["a", "b"])), None
        for step in range(60):
            if told and before is not None:
                criterion.weighting.update(row(0.9**step, 1.0))
            criterion(row(0.9**step, 1.0))
            before = step
        logit = criterion.weighting.logit
        assert logit[0] < -0.5 < 0.5 < logit[1]


def test_without_being_told_it_takes_the_fall_of_the_average_by_hand():
    scheme = FAMO(["a", "b"], weight_decay=0.0, decay=0.5)
    scheme(torch.tensor([1.0, 1.0]))
    scheme(torch.tensor([0.5, 1.0]))  # averages 1 and (1 / 2 + 1 / 2) / (3 / 2) = 2 / 3
    fall = math.log(3 / 2)
    slope = torch.tensor([fall / 4, -fall / 4])
    torch.testing.assert_close(scheme.moments[0], 0.1 * slope)
    torch.testing.assert_close(scheme.logit, torch.tensor([-0.025, 0.025]))  # the first step of Adam


def test_it_brings_two_quadratics_of_very_different_curvature_down_at_one_rate():
    x, criterion = nn.Parameter(torch.tensor([1.0, 1.0])), WeightedLoss(FAMO(["a", "b"]))
    optimizer = torch.optim.SGD([x], lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        losses = {"a": 0.5 + x[0].square(), "b": 0.5 + 0.1 * x[1].square()}
        criterion(losses).backward()
        optimizer.step()
        with torch.no_grad():
            criterion.weighting.update({"a": 0.5 + x[0].square(), "b": 0.5 + 0.1 * x[1].square()})
    assert criterion.weights["b"] > 2 * criterion.weights["a"]


def test_an_absent_term_and_a_broken_update_move_nothing():
    criterion = WeightedLoss(FAMO(["a", "b"]))
    criterion(row(1.0, None))
    criterion.weighting.update(row(0.5, None))
    assert criterion.weighting.steps.tolist() == [1.0, 0.0]
    assert criterion.weighting.logit[1] == 0
    before = deepcopy(criterion.weighting.state_dict())
    criterion.weighting.update(row(math.nan, math.inf))
    torch.testing.assert_close(criterion.weighting.state_dict(), before, rtol=0, atol=0)


def test_a_second_update_for_the_same_step_changes_nothing():
    criterion = WeightedLoss(FAMO(["a", "b"]))
    criterion(row(1.0, 1.0))
    criterion.weighting.update(row(0.5, 1.0))
    before = criterion.weighting.logit.clone()
    criterion.weighting.update(row(0.1, 1.0))
    assert torch.equal(criterion.weighting.logit, before)


def test_an_update_that_forgets_a_term_is_refused():
    with pytest.raises(ValueError, match=r"`losses` must name each term .* missing \['b'\]"):
        FAMO(["a", "b"]).update({"a": torch.tensor(1.0)})


@pytest.mark.parametrize(("name", "value"), [("lr", 0.0), ("weight_decay", -1.0), ("decay", 1.0)])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        FAMO(["a"], **{name: value})
