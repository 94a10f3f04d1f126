"""Conflicts settled on an accelerator, by every aggregator of our own."""

import pytest
import torch

from lossbalance.conflict import IMTLG, MGDA, AlignedMTL, CAGrad, ConFIG, Gate, PCGrad, Protect
from tests.accelerator.conflict_step import PLACES, ConflictStep, make_net
from tests.accelerator.device import DEVICE

CLASSES = [PCGrad, MGDA, IMTLG, CAGrad, AlignedMTL, ConFIG]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("aggregator", [*CLASSES, lambda: Protect("b"), lambda: Gate("b")])
def test_it_trains_as_on_the_cpu_and_the_host_waits_in_the_first_step_alone(aggregator, place, device):
    net = make_net()
    expected, step = (ConflictStep(net, aggregator(), place, where) for where in ("cpu", DEVICE))
    for number in range(4):
        x = torch.randn(16, 3, generator=torch.Generator().manual_seed(number))
        expected(x)
        there = x.to(DEVICE)
        device.reset()
        step(there)
        assert number == 0 or device.waits.total() == 0, device.waits
    for ours, theirs in zip(step.net.parameters(), expected.net.parameters(), strict=True):
        torch.testing.assert_close(ours.detach().cpu(), theirs.detach(), rtol=1e-3, atol=1e-4)
    cosines = step.criterion.last.cosines
    assert all(-1.001 < cosine.item() < 1.001 for cosine in cosines.values())
