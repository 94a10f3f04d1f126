"""Cost of an L2 penalty in a training step, relative to weight decay and to a penalty by autograd."""

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.timing import Step, time_in_turn
from lossbalance import WeightedLoss
from lossbalance.penalties import L2
from lossbalance.weighting import Equal

_STRENGTH, _RATE = 1e-4, 1e-3
_NONE, _USUAL, _DECAY = "none", "sum(w.pow(2).sum())", "SGD(weight_decay)"


def benchmark_penalties(
    tensors: int = 400, size: int = 50_000, rounds: int = 40, device: str = "cpu", console: Console | None = None
) -> dict[str, float]:
    """Times a step of SGD, backward pass included, in which the data's gradient costs next to nothing.

    Args:
        tensors: How many weights the module has.
        size: How many numbers each of them has.
        rounds: How many steps of each kind to time.
        device: Where to run.
        console: Where to show the table.

    Returns:
        The seconds that each way adds to a step without penalty, median over rounds.
    """
    torch.manual_seed(0)
    module = nn.ParameterList(torch.randn(size // 250, 250, device=device) for _ in range(tensors))
    seconds = time_in_turn(_steps(module), rounds, torch.device(device), "penalties")
    added = {
        name: median(a - b for a, b in zip(times, seconds[_NONE], strict=True))
        for name, times in seconds.items()
        if name != _NONE
    }
    _show(added, median(seconds[_NONE]), console or Console())
    return added


def _steps(module: nn.ParameterList) -> dict[str, Step]:
    weights = list(module)
    data = [torch.randn_like(weight) for weight in weights]

    def usual(total: Tensor) -> Tensor:
        return total + _STRENGTH * sum(weight.pow(2).sum() for weight in weights)

    def step(finish: Callable[[Tensor], Tensor], penalty: L2 | None = None, **settings: Any) -> Step:
        optimizer = torch.optim.SGD(weights, lr=_RATE, **settings)
        if penalty is not None:
            penalty.to(weights[0].device).attach(optimizer, module)

        def run() -> None:
            optimizer.zero_grad()
            finish(_Data.apply(data, *weights)).backward()
            optimizer.step()

        return run

    def plain(total: Tensor) -> Tensor:
        return total

    in_loss = WeightedLoss(Equal(["data"]), {"l2": L2(_STRENGTH)}).to(weights[0].device)
    return {
        _NONE: step(plain),
        _USUAL: step(usual),
        _DECAY: step(plain, weight_decay=2 * _STRENGTH),
        "mode=loss": step(lambda total: in_loss({"data": total}, module=module)),
        "mode=gradient": step(plain, L2(_STRENGTH, mode="gradient")),
        "mode=decoupled": step(plain, L2(_STRENGTH, mode="decoupled")),
        "mode=gradient, share": step(plain, L2(share=0.05, mode="gradient")),
    }


class _Data(torch.autograd.Function):
    """A loss whose gradients are given: a copy of them is all that the backward pass costs."""

    @staticmethod
    def forward(ctx: Any, data: list[Tensor], *weights: Tensor) -> Tensor:
        ctx.data = data
        return weights[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(gradient.clone() for gradient in ctx.data)


def _show(added: dict[str, float], without: float, console: Console) -> None:
    table = Table("way", title=f"A step without penalty takes {without * 1e3:.1f} ms", title_justify="left")
    for column in ("adds, ms", "times weight decay", "times usual"):
        table.add_column(column, justify="right")
    for name, seconds in added.items():
        ratios = (f"{seconds / added[other]:.2f}" for other in (_DECAY, _USUAL))
        table.add_row(name, f"{seconds * 1e3:.2f}", *ratios)
    console.print(table)
