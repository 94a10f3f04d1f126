"""A term that starts at its minimum, up to rounding or exactly, gets no more than what the scheme aims at."""

import pytest
import torch
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.weighting import NTK, GradBalance, GradNorm, LRAnnealing

CASES = {  # a scheme, and the norm of the total gradient that it aims at in the first steps
    "GradBalance": (GradBalance(["task", "stay"]), 1.0),
    "GradNorm": (GradNorm(["task", "stay"]), 2.0),
    "LRAnnealing, norm": (LRAnnealing(["task", "stay"], statistic="norm"), 4.5),
    "LRAnnealing": (LRAnnealing(["task", "stay"]), 6.0),
    "LRAnnealing, the quiet term first": (LRAnnealing(["stay", "task"], statistic="norm"), 4.5),
    "NTK": (NTK(["task", "stay"]), 7.0),
}


def train(scheme, by, offset, steps=12, **scale):
    """Norms of the gradient of a task beside the distance to a start, which is off by rounding."""
    w, start = nn.Parameter(torch.ones(2)), torch.tensor([1 + offset, 1 - offset])
    optimizer, norms = torch.optim.SGD([w], lr=0.1), []
    criterion = WeightedLoss(type(scheme)(scheme.terms, **_settings(scheme)), **scale)
    for _ in range(steps):
        optimizer.zero_grad()
        task, stay = (criterion.probe(term, w[...]) if by == "probes" else w for term in ("task", "stay"))
        losses = {"task": (task - torch.tensor([3.0, 0.0])).square().mean(), "stay": (stay - start).square().sum()}
        criterion(losses, shared=w if by == "shared" else None).backward()
        norms.append(w.grad.norm().item())
        optimizer.step()
    return norms


def _settings(scheme):
    return {"statistic": scheme.statistic} if isinstance(scheme, LRAnnealing) else {}


@pytest.mark.parametrize("offset", [1e-7, 0.0])
@pytest.mark.parametrize("by", ["probes", "shared"])
@pytest.mark.parametrize("case", CASES)
def test_no_step_has_more_than_ten_times_the_gradient_that_is_aimed_at(case, by, offset):
    scheme, aim = CASES[case]
    assert max(train(scheme, by, offset)) <= 10 * aim


@pytest.mark.parametrize("offset", [1e-7, 0.0])
@pytest.mark.parametrize("by", ["probes", "shared"])
@pytest.mark.parametrize("case", CASES)
def test_neither_has_one_with_losses_at_a_sum(case, by, offset):
    scheme, _ = CASES[case]
    assert max(train(scheme, by, offset, loss_sum=2.0)) <= 10 * 3.54  # the plain gradient at a sum of 2


@pytest.mark.parametrize("by", ["probes", "shared"])
def test_gradient_balancing_moves_on_from_such_a_start_at_its_usual_pace(by):
    assert train(GradBalance(["task", "stay"]), by, 1e-7)[0] <= 1.01
    assert max(train(GradBalance(["task", "stay"]), by, 1e-7)) <= 2.0


def test_a_quiet_term_that_comes_back_exceeds_its_share_for_one_step():
    w, scheme, norms = nn.Parameter(torch.ones(1)), GradBalance(["task", "hinge"]), []
    criterion = WeightedLoss(scheme)
    for step in range(60):
        scale = 1e-4 if 10 <= step < 40 else 1.0
        losses = {
            "task": criterion.probe("task", w[...]).sum(),
            "hinge": scale * criterion.probe("hinge", w[...]).sum(),
        }
        criterion(losses).backward()
        norms.append(scale * criterion.weights["hinge"].item())
    assert norms[40] <= 2 * 0.5 * 0.9**-30
    assert max(norms[41:]) <= 10 * 0.5
