"""A program that uses the whole public API: type checkers must accept it, strictly, and it must run."""

import torch
from torch import Tensor, nn

from lossbalance import Breakdown, WeightedLoss, make_criterion
from lossbalance.callbacks import AlphaSchedule, BalanceLosses, LossMonitor, Schedule, WeightSchedule
from lossbalance.conflict import IMTLG, MGDA, Aggregator, AlignedMTL, CAGrad, ConFIG, Gate, PCGrad, Protect
from lossbalance.penalties import L1, L2, ElasticNet, GroupLasso, Penalty
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
    RandomWeighting,
    ReLoBRaLo,
    Scalarizer,
    SmoothTchebycheff,
    SoftAdapt,
    Uncertainty,
    UncertaintySoftmax,
    Weighting,
)

TERMS = ["aux", "main"]


def schemes() -> list[Weighting]:
    """Makes one scheme of each class."""
    plain = (Equal, GradBalance, LRAnnealing, NTK, Uncertainty, UncertaintySoftmax, InverseLoss, DWA, CoV, FAMO)
    others = (GeometricMean, ReLoBRaLo, SoftAdapt, SmoothTchebycheff, RandomWeighting, GradNorm)
    return [
        *(scheme(TERMS) for scheme in plain),
        *(scheme(TERMS) for scheme in others),
        Alpha(TERMS, alpha=0.3),
        Fixed(TERMS, weights={"aux": 0.5, "main": 1.0}),
        Constrained(TERMS, limits={"aux": 0.1}),
        Scalarizer(TERMS, torch.sum),
    ]


def aggregators() -> list[Aggregator]:
    """Makes one aggregator of each class."""
    return [PCGrad(), MGDA(), IMTLG(), CAGrad(), AlignedMTL(), ConFIG(), Protect("main"), Gate("main")]


def penalties() -> dict[str, Penalty]:
    """Makes one penalty of each class."""
    return {
        "l1": L1(1e-4),
        "l2": L2(1e-4, normalization="fan"),
        "both": ElasticNet(1e-4, 1e-4),
        "groups": GroupLasso(1e-4),
    }


def train(criterion: WeightedLoss, steps: int = 3) -> Breakdown:
    """Trains a small network on two losses."""
    trunk, aux, main = nn.Linear(4, 8), nn.Linear(8, 1), nn.Linear(8, 1)
    net = nn.ModuleList([trunk, aux, main])
    optimizer = torch.optim.Adam([{"params": net.parameters()}, *criterion.parameter_groups()])
    for _ in range(steps):
        h: Tensor = trunk(torch.randn(16, 4)).tanh()
        losses: dict[str, Tensor | None] = {
            "aux": aux(criterion.probe("aux", h)).square().mean() + 1,
            "main": (main(criterion.probe("main", h)) - 1).square().mean() + 1,
        }
        optimizer.zero_grad()
        total: Tensor = criterion(losses, module=net)
        total.backward()  # type: ignore[no-untyped-call]  # torch's own
        optimizer.step()
    shares: dict[str, Tensor] = criterion.last.gradient_shares
    assert set(shares) <= set(TERMS)
    return criterion.last


def callbacks(criterion: WeightedLoss) -> list[object]:
    """Makes one callback of each class."""
    schedule = Schedule(0.0, 1.0, over="10 epochs", shape="linear")
    return [
        BalanceLosses(criterion),
        LossMonitor(),
        WeightSchedule({"aux": schedule}),
        AlphaSchedule({0: 0.3, 10: 0.7}),
    ]


def main() -> None:
    """Runs all of it."""
    for scheme in schemes():
        weights: dict[str, Tensor] = train(WeightedLoss(scheme, penalties=penalties())).weights
        assert set(weights) == set(TERMS)
    for aggregator in aggregators():
        assert make_criterion(Equal(TERMS), conflict=aggregator).conflict is aggregator
    assert callbacks(WeightedLoss(Alpha(TERMS, alpha=0.3)))
    criterion = WeightedLoss(GradBalance(TERMS), loss_sum=2.0)
    with criterion.frozen():
        train(criterion)


if __name__ == "__main__":
    main()
