"""Terms that take turns (one task per batch) get the weights that they would get together."""

import pytest
import torch
from torch import Tensor, nn

from lossbalance import WeightedLoss
from lossbalance.weighting import (
    DWA,
    FAMO,
    NTK,
    Constrained,
    CoV,
    GeometricMean,
    GradBalance,
    GradNorm,
    InverseLoss,
    LRAnnealing,
    Observation,
    ReLoBRaLo,
    SmoothTchebycheff,
    SoftAdapt,
    UncertaintySoftmax,
    Weighting,
)

TERMS = ["large", "small"]
NORMS = torch.tensor([1000.0, 1.0])

# A maker for turns and one for steps with both terms; an epoch with turns has twice the steps.
CASES = {
    "GradBalance": (GradBalance, {}, {}),
    "GradNorm": (GradNorm, {}, {}),
    "GradNorm, equal": (GradNorm, {"initial": "equal"}, {}),
    "GradNorm, tuned": (GradNorm, {"initial": {"large": 1.0, "small": 3.0}}, {}),
    "LRAnnealing": (LRAnnealing, {}, {}),
    "LRAnnealing, norm": (LRAnnealing, {"statistic": "norm"}, {}),
    "NTK": (NTK, {}, {}),
    "Constrained": (Constrained, {"limits": {"large": 2.0}}, {}),
    "CoV": (CoV, {}, {}),
    "DWA": (DWA, {"period": 10}, {"period": 20}),
    "FAMO": (FAMO, {}, {}),
    "GeometricMean": (GeometricMean, {}, {}),
    "InverseLoss": (InverseLoss, {}, {}),
    "ReLoBRaLo": (ReLoBRaLo, {"rho": 0.99}, {}),
    "SmoothTchebycheff": (SmoothTchebycheff, {}, {}),
    "SoftAdapt": (SoftAdapt, {}, {}),
    "UncertaintySoftmax": (UncertaintySoftmax, {}, {}),
}


def losses(step: int) -> Tensor:
    return torch.tensor([5.0 * 0.997**step, 3.0 * 0.9995**step])


def observe(scheme: Weighting, step: int, seen: list[bool]) -> None:
    mask = torch.tensor(seen)
    row, norms = losses(step).where(mask, 0.0), (NORMS * 0.999**step).where(mask, 0.0)
    scheme.observe(Observation(row, norms, mask, 3 * norms, norms / 2))


@pytest.mark.parametrize("case", CASES)
def test_terms_that_take_turns_get_the_weights_that_they_get_together(case):
    make, settings, in_turns = CASES[case]
    turns, together = make(TERMS, **settings | in_turns), make(TERMS, **settings)
    for step in range(800):
        observe(together, step, [True, True])
        observe(turns, step, [True, False])
        observe(turns, step, [False, True])
    rows = [scheme.eval().weigh(losses(800), torch.tensor([True, True]))[1] for scheme in (turns, together)]
    torch.testing.assert_close(*rows, rtol=0.06 if make is GradNorm else 0.01, atol=0)


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        (GradNorm(TERMS, restoring_force=0.0), [0.002, 1.998]),
        (LRAnnealing(TERMS, statistic="norm"), [1.0, 1000.0]),
        (GradBalance(TERMS), [5e-4, 0.5]),
    ],
    ids=["GradNorm", "LRAnnealing", "GradBalance"],
)
def test_a_round_robin_over_tasks_with_probes_balances_gradients_a_thousand_apart(scheme, expected):
    trunk, x = nn.Linear(1, 1, bias=False), torch.ones(1, 1)
    criterion = WeightedLoss(scheme)
    for step in range(60):
        term = TERMS[step % 2]
        h = criterion.probe(term, trunk(x))
        loss = (1000.0 if term == "large" else 1.0) * (1 + h - h.detach()).sum()  # a gradient that stays
        criterion({name: loss if name == term else None for name in TERMS}).backward()
    _, weights = scheme.eval().weigh(torch.ones(2), torch.tensor([True, True]))
    torch.testing.assert_close(weights, torch.tensor(expected), rtol=0.06, atol=0)
