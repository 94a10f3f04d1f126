"""A loop written by hand on an accelerator, under every scheme."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from lossbalance import WeightedLoss
from lossbalance.penalties import L2
from tests.accelerator.device import DEVICE, pretend
from tests.accelerator.schemes import SCHEMES, make_scheme
from tests.callbacks.modules import PROBES, TERMS, TwoHeads, assert_equal, assert_same_state, draw


class Loop:
    """Trains with a scheme that learns of gradients in one of several ways, and reports penalties."""

    def __init__(self, scheme: str, way: str, device: torch.device) -> None:
        self.way, self.net = way, TwoHeads().to(device)
        penalties = {"l1": L2(0.01), "l2": L2(share=0.1, mode="gradient")}
        self.criterion = WeightedLoss(make_scheme(scheme, TERMS), penalties).to(device)
        if way == "probe_inputs":
            self.criterion.probe_inputs({term: self.net.get_submodule(name) for term, name in PROBES.items()})
        groups = [{"params": list(self.net.parameters())}, *self.criterion.parameter_groups()]
        self.optimizer = torch.optim.AdamW(groups, lr=0.01)
        self.criterion.attach(self.optimizer, self.net)
        self.reports: list[Any] = []

    def step(self, number: int) -> None:
        x = draw(number, 0).to(self.net.device, non_blocking=True)
        options = {"shared": self.net.trunk.weight} if self.way == "shared" else {}
        losses = self._losses(x) if self.way == "probe" else self.net.losses(x, x.sum(1, keepdim=True))
        self.optimizer.zero_grad()
        self.criterion(losses, module=self.net, **options).backward()
        self.reports.append(self.criterion.report_penalties())
        self.optimizer.step()

    def _losses(self, x: Tensor) -> dict[str, Tensor]:
        h, y = self.net.trunk(x).tanh(), x.sum(1, keepdim=True)
        aux = self.net.aux_head(self.criterion.probe("aux", h)) - 30 * y
        main = self.net.main_head(self.criterion.probe("main", h)) - y.square()
        return {"aux": aux.square().mean(), "main": main.square().mean()}


@pytest.mark.parametrize("way", ["probe", "probe_inputs", "shared"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_trains_as_on_the_cpu_and_the_host_waits_in_the_first_step_alone(scheme, way):
    expected = Loop(scheme, way, torch.device("cpu"))
    for number in range(4):
        expected.step(number)

    with pretend(float64=False) as device:
        loop = Loop(scheme, way, DEVICE)
        loop.step(0)
        device.reset()
        for number in range(1, 4):
            loop.step(number)
        waits = +device.waits
        saved = loop.criterion.state_dict()
        assert_equal(loop.net.cpu(), expected.net)
        assert_same_state(tree_map_only(Tensor, Tensor.cpu, saved), expected.criterion.state_dict())
        reported = [[report.gradient_share.cpu() for report in step.values()] for step in loop.reports]
        assert_same_state(reported, [[report.gradient_share for report in step.values()] for step in expected.reports])
    assert waits == {}
