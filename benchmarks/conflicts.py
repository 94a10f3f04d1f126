"""Cost of a training step with a conflict aggregator at the branch, relative to the plain sum of the same losses."""

import copy
import importlib.util
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.steps import Network, compare, make_network, plain_sum
from benchmarks.timing import Step
from lossbalance import WeightedLoss
from lossbalance.conflict import IMTLG, MGDA, Aggregator, AlignedMTL, CAGrad, ConFIG, FromTorchJD, PCGrad
from lossbalance.weighting import Equal

_AGGREGATORS: tuple[Callable[[], Aggregator], ...] = (PCGrad, MGDA, IMTLG, CAGrad, AlignedMTL, ConFIG)


def benchmark_conflicts(
    counts: Sequence[int] = (2, 8, 32), rounds: int = 40, device: str = "cpu", console: Console | None = None
) -> dict[str, dict[int, float]]:
    """Times one training step, forward, backward and SGD, of a six-layer trunk with K heads, branched before the heads.

    Args:
        counts: How many terms K to try.
        rounds: How many steps of each kind to time.
        device: Where to run.
        console: Where to show the table.

    Returns:
        The time of a step relative to the plain sum's, median over rounds, by method and K.
    """
    return compare(_steps, counts, rounds, device, console)


def _steps(count: int, device: torch.device) -> dict[str, Step]:
    network, x, target = make_network(count, device)
    aggregators = {"branch, plain sum": None} | {
        type(each).__name__: each for each in (make() for make in _AGGREGATORS)
    }
    if importlib.util.find_spec("torchjd") and importlib.util.find_spec("quadprog"):
        from torchjd.aggregation import UPGradWeighting

        aggregators["UPGrad, by TorchJD"] = FromTorchJD(UPGradWeighting())
    branched = {name: _branched(copy.deepcopy(network), x, target, each) for name, each in aggregators.items()}
    return {"plain sum": plain_sum(network, x, target), **branched}


def _branched(network: Network, x: Tensor, target: Tensor, conflict: Aggregator | None) -> Step:
    terms = [f"term_{i}" for i in range(len(network.heads))]
    criterion = WeightedLoss(Equal(terms), conflict=conflict).to(x.device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        h = network.trunk(x)
        parts = criterion.branch(h)
        losses = network.losses(h, target, lambda i, _: parts[terms[i]])
        criterion(dict(zip(terms, losses, strict=True))).backward()
        optimizer.step()

    return step
