"""Networks and criteria by which tests of probes compare norms with those of ``torch.autograd.grad``."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lossbalance import WeightedLoss
from lossbalance.weighting import Equal, GradBalance
from tests.helpers.recorder import Recorder


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(12, 8), nn.Tanh())
        self.second = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.aux, self.main = nn.Linear(8, 3), nn.Linear(8, 1)

    def example(self) -> Tensor:
        return torch.randn(5, 12)


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU())
        self.aux, self.main = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 1, 3)

    def example(self) -> Tensor:
        return torch.randn(3, 1, 8, 8)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.second = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.aux, self.main = nn.Linear(8, 4), nn.Linear(8, 1)

    def example(self) -> Tensor:
        return torch.randn(3, 5, 8)


def losses_and_branch_points(
    net: nn.Module, x: Tensor, probe: Callable[[str, Tensor], Tensor], nested: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses of very different size, with both heads on one layer or on two."""
    h = net.first(x)
    last = net.second(h) if nested else h
    aux, main = probe("aux", h), probe("main", last)
    losses = {"aux": 300 * net.aux(aux).square().mean(), "main": net.main(main).tanh().mean()}
    return losses, {"aux": aux, "main": main}


def true_norms(losses: dict[str, Tensor], points: dict[str, Tensor]) -> Tensor:
    grads = [torch.autograd.grad(losses[term], points[term], retain_graph=True)[0] for term in losses]
    return torch.stack([grad.float().norm() for grad in grads])


def reveal(criterion: WeightedLoss) -> Tensor:
    """Has the recorder shown what the last backward pass measured of "aux" and "main"."""
    criterion(dict.fromkeys(criterion.terms))
    return criterion.weighting.shown[-1].norms[:2]


def recording(weights: tuple[float, ...] = (0.5, 40.0)) -> WeightedLoss:
    return WeightedLoss(Recorder(["aux", "main", "late"][: len(weights)], weights))


# As long as a term is unknown, here "late", the losses can be differentiated by the leaves; then they need not.
some_unknown = pytest.mark.parametrize("weights", [(0.5, 40.0), (0.5, 40.0, 1.0)], ids=["all_known", "one_unknown"])


def measured_after_two_steps(criterion: WeightedLoss, backward: Callable[[Tensor], None]) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    net = Linear()
    for _ in range(2):
        losses, points = losses_and_branch_points(net, net.example(), criterion.probe, nested=True)
        expected = true_norms(losses, points)
        backward(criterion(dict.fromkeys(criterion.terms) | losses))
    return reveal(criterion), expected


either_kind = pytest.mark.parametrize("scheme", [Equal, GradBalance])


class CountBackward(torch.autograd.Function):
    """The identity, counting how often its backward runs."""

    passes = 0

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        CountBackward.passes += 1
        return grad
