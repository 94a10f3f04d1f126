"""One training step of a small network whose gradients are combined, on any device."""

import copy
from typing import Any

import torch
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.conflict import Aggregator
from lossbalance.weighting import GradBalance

TERMS = ["a", "b", "c"]
PLACES = ["activation", "parameters"]


def make_net() -> nn.ModuleList:
    """Returns one layer, and three heads on it, which :class:`ConflictStep` pulls in different directions."""
    torch.manual_seed(0)
    return nn.ModuleList([nn.Linear(3, 4), *(nn.Linear(4, 1) for _ in TERMS)])


class ConflictStep:
    """Trains one step when called.

    Args:
        net: Is copied.
        conflict: Combines the gradients.
        place: Where: at the activation, or at the parameters of the layer.
        device: Where to train.
    """

    def __init__(self, net: nn.ModuleList, conflict: Aggregator, place: str, device: Any) -> None:
        self.net, self.place = copy.deepcopy(net).to(device), place
        self.criterion = WeightedLoss(GradBalance(TERMS), conflict=conflict).to(device)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05)
        self.views = self.criterion.branch_parameters(self.net[0])

    def __call__(self, x: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        if self.place == "activation":
            h = self.criterion.branch(self.net[0](x).tanh())
        else:
            h = {term: self.views[term](x).tanh() for term in TERMS}
        losses = {term: (self.net[i + 1](h[term]) - 3 * i * x[:, :1]).square().mean() for i, term in enumerate(TERMS)}
        self.criterion(losses).backward()
        self.optimizer.step()
