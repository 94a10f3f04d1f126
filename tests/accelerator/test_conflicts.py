"""Conflicts settled on an accelerator, by every aggregator of our own."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.conflict import IMTLG, MGDA, Aggregator, AlignedMTL, CAGrad, ConFIG, PCGrad
from lossbalance.weighting import GradBalance
from tests.accelerator.device import DEVICE

TERMS = ["a", "b", "c"]


class Loop:
    """Trains three heads on one layer, which are pulled in different directions."""

    def __init__(self, net: nn.Module, conflict: Aggregator, device: Any) -> None:
        self.net = copy.deepcopy(net).to(device)
        self.criterion = WeightedLoss(GradBalance(TERMS), conflict=conflict).to(device)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05)

    def step(self, x: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        h = self.criterion.branch(self.net[0](x).tanh())
        losses = {term: (self.net[i + 1](h[term]) - 3 * i * x[:, :1]).square().mean() for i, term in enumerate(TERMS)}
        self.criterion(losses).backward()
        self.optimizer.step()


@pytest.mark.parametrize("aggregator", [PCGrad, MGDA, IMTLG, CAGrad, AlignedMTL, ConFIG])
def test_it_trains_as_on_the_cpu_and_the_host_waits_in_the_first_step_alone(aggregator, device):
    torch.manual_seed(0)
    net = nn.ModuleList([nn.Linear(3, 4), *(nn.Linear(4, 1) for _ in TERMS)])
    expected, loop = Loop(net, aggregator(), "cpu"), Loop(net, aggregator(), DEVICE)
    for number in range(4):
        x = torch.randn(16, 3, generator=torch.Generator().manual_seed(number))
        expected.step(x)
        there = x.to(DEVICE)
        device.reset()
        loop.step(there)
        assert number == 0 or device.waits.total() == 0, device.waits
    for ours, theirs in zip(loop.net.parameters(), expected.net.parameters(), strict=True):
        torch.testing.assert_close(ours.detach().cpu(), theirs.detach(), rtol=1e-3, atol=1e-4)
    cosines = loop.criterion.last.cosines
    assert all(-1.001 < cosine.item() < 1.001 for cosine in cosines.values())
