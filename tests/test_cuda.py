"""What only a GPU can show: no step waits for the device, and a step can be captured in a graph."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lossbalance import WeightedLoss
from lossbalance.penalties import L2
from lossbalance.weighting import (
    Alpha,
    Equal,
    Fixed,
    GradBalance,
    GradNorm,
    LRAnnealing,
    Uncertainty,
    UncertaintySoftmax,
    Weighting,
)

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

TERMS = ["aux", "main"]
SCHEMES: dict[str, Callable[[], Weighting]] = {
    "equal": lambda: Equal(TERMS),
    "fixed": lambda: Fixed(TERMS, weights={"aux": 0.5, "main": 2.0}),
    "alpha": lambda: Alpha(TERMS, alpha=0.25),
    "uncertainty": lambda: Uncertainty(TERMS),
    "uncertainty_softmax": lambda: UncertaintySoftmax(TERMS),
    "gradbalance": lambda: GradBalance(TERMS),
    "gradnorm": lambda: GradNorm(TERMS),
    "lr_annealing": lambda: LRAnnealing(TERMS),
}


class Step:
    """One training step of a small network; input and weights stay where they are, as a graph wants it."""

    def __init__(self, scheme: Callable[[], Weighting], autocast: bool = False) -> None:
        torch.manual_seed(0)
        self.net = nn.ModuleDict({"trunk": nn.Linear(8, 16), "aux": nn.Linear(16, 4), "main": nn.Linear(16, 1)}).cuda()
        self.criterion = WeightedLoss(scheme(), penalties={"l2": L2(1e-4)}).cuda()
        groups = [{"params": list(self.net.parameters())}, *self.criterion.parameter_groups()]
        self.optimizer = torch.optim.Adam(groups, lr=1e-2, capturable=True)
        self.scaler = torch.amp.GradScaler("cuda", enabled=autocast)
        self.x = torch.randn(32, 8, device="cuda")
        self.autocast = autocast

    def total(self) -> Tensor:
        with torch.autocast("cuda", torch.float16, enabled=self.autocast):
            h = self.net["trunk"](self.x).tanh()
            aux = self.net["aux"](self.criterion.probe("aux", h)).float().square().sum()
            main = self.net["main"](self.criterion.probe("main", h)).float().square().mean() + 1
            return self.criterion({"aux": aux, "main": main}, module=self.net)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self.scaler.scale(self.total()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def weights(self) -> Tensor:
        return torch.stack(list(self.criterion.weights.values()))


@pytest.mark.parametrize("name", SCHEMES)
def test_no_step_waits_for_the_device(name):
    step = Step(SCHEMES[name])
    step()  # the first one may: it starts the schemes
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", SCHEMES)
def test_a_captured_step_goes_on_as_the_plain_one(name):
    plain, captured = Step(SCHEMES[name]), Step(SCHEMES[name])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            captured()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    captured.optimizer.zero_grad()
    with torch.cuda.graph(graph):
        captured()
    for _ in range(5):
        graph.replay()
    for _ in range(8):
        plain()
    torch.testing.assert_close(captured.weights(), plain.weights(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(captured.net["trunk"].weight, plain.net["trunk"].weight, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", SCHEMES)
def test_half_precision_with_a_gradient_scaler_weighs_as_single_precision_does(name):
    half, single = Step(SCHEMES[name], autocast=True), Step(SCHEMES[name])
    for _ in range(3):
        half()
        single()
    torch.testing.assert_close(half.weights(), single.weights(), rtol=0.05, atol=1e-4)
