"""How many operations each scheme adds to a step: on an accelerator a launch costs more than what it computes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lossbalance import WeightedLoss
from lossbalance.conflict import IMTLG, MGDA, AlignedMTL, CAGrad, ConFIG, Gate, PCGrad, Protect
from lossbalance.weighting import Equal
from tests.accelerator.operations import count_added
from tests.accelerator.schemes import SCHEMES, make_scheme

# The most operations that a step adds, forward and backward, with 2 terms and with 32. Lower a line when a scheme gets
# cheaper; the goal behind it is where it is to end.
BOUNDS = {
    "equal": (3, 3),  # goal: 3, 15
    "fixed": (2, 2),  # goal: 3, 15
    "alpha": (3, 3),  # goal: 3, 15
    "uncertainty": (22, 22),  # goal: 22, 34
    "uncertainty_softmax": (12, 12),  # goal: 12, 24
    "gradbalance": (19, 19),  # goal: 25, 37
    "lr_annealing": (25, 25),  # goal: 25, 37
    "gradnorm": (47, 47),  # goal: 40, 52
    "ntk": (25, 25),  # goal: 25, 37
    "constrained": (12, 12),  # goal: 12, 24
    "cov": (28, 28),  # goal: 12, 24
    "dwa": (19, 19),  # goal: 12, 24
    "famo": (39, 39),  # an optimizer of its own: no goal
    "geometric_mean": (12, 12),  # goal: 12, 24
    "inverse_loss": (19, 19),  # goal: 12, 24
    "random_weighting": (12, 12),  # goal: 12, 24
    "relobralo": (28, 28),  # goal: 12, 24
    "smooth_tchebycheff": (11, 11),  # goal: 12, 24
    "softadapt": (12, 12),  # goal: 12, 24
    "scalarizer": (50, 50),  # no goal: what it wraps is not ours
}
OF_VALUES, OF_GRADIENTS = (12, 24), (25, 37)  # of a scheme that has no line


def losses(count: int, probe: Callable[[str, Tensor], Tensor] | None = None) -> list[Tensor]:
    """Returns the losses of heads that share one activation."""
    x, weight = torch.ones(4, 3), torch.ones(3, 3, requires_grad=True)
    h = x @ weight
    return [((h if probe is None else probe(f"term_{i}", h)) * (i + 1.0)).square().mean() for i in range(count)]


# The same of a branch, beside the plain sum of the losses, and of what combines the gradients there.
BRANCH_BOUNDS = {
    None: (10, 10),
    PCGrad: (42, 141),
    MGDA: (60, 134),
    IMTLG: (45, 15),
    CAGrad: (101, 275),
    AlignedMTL: (43, 13),
    ConFIG: (53, 23),
    lambda: Protect("term_0"): (39, 9),
    lambda: Gate("term_0"): (41, 11),
}


@pytest.mark.parametrize("count", [2, 32])
@pytest.mark.parametrize("aggregator", BRANCH_BOUNDS)
def test_a_branch_adds_few_operations_to_a_plain_sum(aggregator, count):
    terms = [f"term_{i}" for i in range(count)]
    criterion = WeightedLoss(Equal(terms), conflict=aggregator and aggregator())

    def step() -> None:
        x, weight = torch.ones(4, 3), torch.ones(3, 3, requires_grad=True)
        h = criterion.branch(x @ weight)
        criterion({term: (h[term] * (i + 1.0)).square().mean() for i, term in enumerate(terms)}).backward()

    step()
    added = count_added(step, lambda: torch.stack(losses(count)).sum().backward())
    assert added.total() <= BRANCH_BOUNDS[aggregator][count == 32], f"{added.total()}: {dict(added)}"


@pytest.mark.parametrize("count", [2, 32])
@pytest.mark.parametrize("name", SCHEMES)
def test_a_step_adds_few_operations_to_a_plain_sum(name, count):
    criterion = WeightedLoss(make_scheme(name, [f"term_{i}" for i in range(count)]))
    probe = criterion.probe if criterion.weighting.uses_gradients else None

    def step() -> None:
        criterion.zero_grad()  # as before every step of a training: or else each gradient is added to the last
        criterion(dict(zip(criterion.terms, losses(count, probe), strict=True))).backward()

    for _ in range(3):  # the first steps may cost more: they start the schemes
        step()
    added = count_added(step, lambda: torch.stack(losses(count)).sum().backward())

    default = OF_GRADIENTS if criterion.weighting.uses_gradients else OF_VALUES
    assert added.total() <= BOUNDS.get(name, default)[count == 32], f"{added.total()}: {dict(added)}"
