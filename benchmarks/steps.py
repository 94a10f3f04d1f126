"""Cost of a training step under each scheme and in other packages, relative to the plain sum of the same losses."""

import copy
import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.timing import Step, ratio, time_in_turn
from lossbalance import WeightedLoss
from lossbalance.weighting import Alpha, Equal, GradBalance, GradNorm, Uncertainty, Weighting

_BATCH, _WIDTH, _CLASSES = 256, 512, 10
_SCHEMES: dict[str, Callable[[list[str]], Weighting]] = {
    "Equal": Equal,
    "Alpha": partial(Alpha, alpha=0.5),
    "Uncertainty": partial(Uncertainty, likelihood="classification"),
    "GradBalance": GradBalance,
    "GradNorm": GradNorm,
}


def benchmark_steps(
    counts: Sequence[int] = (2, 8, 32), rounds: int = 40, device: str = "cpu", console: Console | None = None
) -> dict[str, dict[int, float]]:
    """Times one training step, forward, backward and SGD, of a six-layer trunk with K heads.

    Args:
        counts: How many terms K to try.
        rounds: How many steps of each kind to time.
        device: Where to run.
        console: Where to show the table.

    Returns:
        The time of a step relative to the plain sum's, median over rounds, by method and K.
    """
    return compare(_steps, counts, rounds, device, console)


def compare(
    make_steps: Callable[[int, torch.device], dict[str, Step]],
    counts: Sequence[int],
    rounds: int,
    device: str,
    console: Console | None,
) -> dict[str, dict[int, float]]:
    """Times what ``make_steps`` makes for each number of terms, shows the ratios to the plain sum, and returns them."""
    ratios: dict[str, dict[int, float]] = {}
    baseline: dict[int, float] = {}
    for count in counts:
        steps = make_steps(count, torch.device(device))
        seconds = time_in_turn(steps, rounds, torch.device(device), f"{count} terms")
        baseline[count] = median(seconds["plain sum"])
        for name, times in seconds.items():
            ratios.setdefault(name, {})[count] = ratio(times, seconds["plain sum"])
    _show(ratios, baseline, console or Console(), device)
    return ratios


class Network(nn.Module):
    """A trunk of six layers, and a head per term on its output."""

    def __init__(self, count: int) -> None:
        super().__init__()
        layers = [nn.Linear(_WIDTH, _WIDTH) for _ in range(6)]
        self.last_layer = layers[-1]
        self.trunk = nn.Sequential(*[nn.Sequential(layer, nn.ReLU()) for layer in layers])
        self.heads = nn.ModuleList(nn.Linear(_WIDTH, _CLASSES) for _ in range(count))

    def losses(self, h: Tensor, target: Tensor, probe: Callable[[int, Tensor], Tensor]) -> list[Tensor]:
        """Returns the loss of each head, of what ``probe`` makes of the activation for it."""
        return [cross_entropy(head(probe(i, h)), target) for i, head in enumerate(self.heads)]


def make_network(count: int, device: torch.device) -> tuple[Network, Tensor, Tensor]:
    """Returns the network with a head for each of K terms, inputs and targets."""
    torch.manual_seed(0)
    x = torch.randn(_BATCH, _WIDTH, device=device)
    return Network(count).to(device), x, torch.randint(_CLASSES, (_BATCH,), device=device)


def _steps(count: int, device: torch.device) -> dict[str, Step]:
    network, x, target = make_network(count, device)
    terms = [f"term_{i}" for i in range(count)]
    steps = {"plain sum": plain_sum(copy.deepcopy(network), x, target)}
    for name, scheme in _SCHEMES.items():
        steps[name] = _weighted(copy.deepcopy(network), x, target, WeightedLoss(scheme(terms)).to(device))
    for package, peer in _PEERS.items():
        if importlib.util.find_spec(package):
            steps |= peer(network, x, target)
    return steps


def plain_sum(network: Network, x: Tensor, target: Tensor) -> Step:
    """Returns a step on the plain sum of the losses."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        torch.stack(network.losses(network.trunk(x), target, no_probe)).sum().backward()
        optimizer.step()

    return step


def _weighted(network: Network, x: Tensor, target: Tensor, criterion: WeightedLoss) -> Step:
    optimizer = torch.optim.SGD([*network.parameters(), *criterion.parameters()], lr=1e-3)
    terms, gradients = criterion.terms, criterion.weighting.uses_gradients

    def probe(i: int, h: Tensor) -> Tensor:
        return criterion.probe(terms[i], h) if gradients else h

    def step() -> None:
        optimizer.zero_grad()
        losses = network.losses(network.trunk(x), target, probe)
        criterion(dict(zip(criterion.terms, losses, strict=True))).backward()
        optimizer.step()

    return step


def _torchjd(network: Network, x: Tensor, target: Tensor) -> dict[str, Step]:
    from torchjd.aggregation import IMTLG
    from torchjd.autojac import jac_to_grad, mtl_backward

    network, aggregator = copy.deepcopy(network), IMTLG()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        h = network.trunk(x)
        mtl_backward(network.losses(h, target, no_probe), features=h)
        jac_to_grad(network.trunk.parameters(), aggregator)
        optimizer.step()

    return {"torchjd: IMTL-G": step}


def _gradnorm_pytorch(network: Network, x: Tensor, target: Tensor) -> dict[str, Step]:
    from gradnorm_pytorch import GradNormLossWeighter

    network = copy.deepcopy(network)
    last = network.last_layer.weight
    weighter = GradNormLossWeighter(num_losses=len(network.heads), grad_norm_parameters=last, restoring_force_alpha=1.5)
    weighter.to(x.device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        weighter.backward(network.losses(network.trunk(x), target, no_probe))
        optimizer.step()

    return {"gradnorm-pytorch": step}


_PEERS: dict[str, Callable[[Network, Tensor, Tensor], dict[str, Step]]] = {
    "torchjd": _torchjd,
    "gradnorm_pytorch": _gradnorm_pytorch,
}


def no_probe(i: int, h: Tensor) -> Tensor:
    """Returns the activation as it is."""
    return h


def _show(ratios: dict[str, dict[int, float]], baseline: dict[int, float], console: Console, device: str) -> None:
    table = Table(title=f"Time of a training step relative to the plain sum ({_describe(torch.device(device))})")
    table.add_column("")
    for count in baseline:
        table.add_column(f"{count} terms", justify="right")
    for method, row in ratios.items():
        table.add_row(method, *[f"{row[count]:.2f}" for count in baseline])
    table.caption = "plain sum: " + ", ".join(
        f"{1000 * seconds:.1f} ms for {count}" for count, seconds in baseline.items()
    )
    console.print(table)


def _describe(device: torch.device) -> str:
    match device.type:
        case "cpu":
            return f"CPU, {torch.get_num_threads()} threads"
        case "cuda":
            return torch.cuda.get_device_name(device)
        case other:
            return other
