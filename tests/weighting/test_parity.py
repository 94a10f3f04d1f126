"""Every scheme agrees with a reference written from its paper, in float64, over 50 steps.

The references, and where and why ours differ from the papers, are in ``references.py``. Two differences they do not
show, because a step is handed in whole here: in a training the norms that weigh a step are those of the step before,
and the first step is measured ahead, so that it is balanced already.
"""

from statistics import NormalDist

import numpy as np
import pytest
import torch

from lossbalance.weighting import (
    DWA,
    FAMO,
    NTK,
    Alpha,
    Constrained,
    CoV,
    Equal,
    Fixed,
    GeometricMean,
    GradBalance,
    GradNorm,
    InverseLoss,
    LRAnnealing,
    Observation,
    RandomWeighting,
    ReLoBRaLo,
    SmoothTchebycheff,
    SoftAdapt,
    Uncertainty,
    UncertaintySoftmax,
    Weighting,
)
from tests.weighting import references

TERMS = ["a", "b", "c"]
RATIOS = {"a": 1.0, "b": 4.0, "c": 0.5}
ROW = np.array([*RATIOS.values()])
RANDOM, RELOBRALO = RandomWeighting(TERMS, seed=3), ReLoBRaLo(TERMS, alpha=0.9, rho=0.7, seed=3)

CASES = {
    "Equal": (Equal(TERMS), lambda steps: [np.ones(3)] * len(steps)),
    "Fixed": (Fixed(TERMS, RATIOS), lambda steps: [ROW] * len(steps)),
    "Alpha": (Alpha(TERMS, 0.3), lambda steps: [np.array([0.3, 0.35, 0.35])] * len(steps)),
    "Uncertainty": (Uncertainty(TERMS), lambda steps: references.uncertainty(steps, lr=0.1)),
    "UncertaintySoftmax": (
        UncertaintySoftmax(TERMS, 0.7),
        lambda steps: references.uncertainty_softmax_scale_free(steps, 0.7, decay=0.9),
    ),
    "UncertaintySoftmax, the paper's": (
        UncertaintySoftmax(TERMS, 3.0, scale_free=False),
        lambda steps: references.uncertainty_softmax(steps, 3.0),
    ),
    "GradNorm": (GradNorm(TERMS, 0.5, lr=0.05), lambda steps: references.gradnorm(steps, 0.5, lr=0.05)),
    "GradBalance": (GradBalance(TERMS, RATIOS, 0.9), lambda steps: references.gradbalance(steps, ROW, 0.9)),
    "LRAnnealing": (LRAnnealing(TERMS), lambda steps: references.lr_annealing(steps, 0.9, "max_mean")),
    "LRAnnealing, norm": (
        LRAnnealing(TERMS, statistic="norm"),
        lambda steps: references.lr_annealing(steps, 0.9, "norm"),
    ),
    "NTK": (NTK(TERMS, 0.8), lambda steps: references.ntk(steps, 0.8)),
    "InverseLoss": (InverseLoss(TERMS, 0.3, 0.8), lambda steps: references.inverse_loss(steps, 0.3, 0.8)),
    "DWA": (DWA(TERMS, period=7), lambda steps: references.dwa(steps, 2.0, period=7)),
    "GeometricMean": (GeometricMean(TERMS), references.geometric_mean),
    "SmoothTchebycheff": (
        SmoothTchebycheff(TERMS, 0.5, RATIOS),
        lambda steps: references.smooth_tchebycheff(steps, 0.5, ROW),
    ),
    "CoV": (CoV(TERMS), references.cov),
    "SoftAdapt": (SoftAdapt(TERMS, 2.0, normalized=False), lambda steps: references.softadapt(steps, 2.0)),
    "ReLoBRaLo": (
        RELOBRALO,
        lambda steps: references.relobralo(steps, 0.9, 0.1, 0.7, RELOBRALO.state.item()),
    ),
    "FAMO": (FAMO(TERMS, decay=0.9), lambda steps: references.famo(steps, 0.025, 1e-3, 0.9)),
    "Constrained": (
        Constrained(TERMS, {"b": 1.0, "c": 2.0}, lr=0.1, max_weight=0.8),
        lambda steps: references.constrained(steps, np.array([0.0, 1.0, 2.0]), 0.1, 0.8, 0.9),
    ),
    "RandomWeighting": (
        RANDOM,
        lambda steps: references.random_weighting(steps, RANDOM.state.tolist(), NormalDist().inv_cdf),
    ),
}


def steps(count: int = 50) -> list[references.Seen]:
    """Losses that fall at three paces, under noise, and gradients of three scales."""
    generator = np.random.default_rng(0)
    pace, scale = np.array([0.0, 0.02, 0.05]), np.array([[10.0], [1.0], [0.01]])
    return [
        references.Seen(
            3 * np.exp(-pace * t) * (1 + 0.2 * generator.standard_normal(3)), scale * generator.standard_normal((3, 20))
        )
        for t in range(count)
    ]


def weigh(scheme: Weighting, seen: references.Seen) -> torch.Tensor:
    """Shows the scheme a step, lets it learn what it learns, and returns the weights."""
    losses, norms, largest, mean = map(torch.from_numpy, (seen.losses, seen.norms, seen.largest, seen.mean_magnitude))
    present = torch.ones(3, dtype=torch.bool)
    with torch.no_grad():
        scheme.observe(Observation(losses, norms, present, largest, mean))
    total, weights = scheme.weigh(losses, present)
    parameters = list(scheme.parameters())
    for parameter, slope in zip(parameters, torch.autograd.grad(total, parameters) if parameters else [], strict=True):
        parameter.data.sub_(slope, alpha=0.1)
    return weights


@pytest.mark.parametrize("case", CASES)
def test_it_agrees_with_a_reference_written_from_its_paper(case):
    scheme, reference = CASES[case]
    expected = np.stack(reference(steps()))  # before the generators of the scheme move
    found = torch.stack([weigh(scheme.double(), seen) for seen in steps()])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-9)
