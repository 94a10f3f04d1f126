"""One training step of a small network, on any device and in any precision."""

import torch
from torch import Tensor, nn

from lossbalance import WeightedLoss
from lossbalance.penalties import L2
from tests.accelerator.schemes import make_scheme

TERMS = ["aux", "main"]


class Step:
    """Trains one step when called; input and weights stay where they are, as a graph wants it.

    Args:
        scheme: The scheme's YAML.
        device: Where to train.
        half: Whether in fp16, with a gradient scaler. It starts where nothing overflows: a step that it skips would
            leave the network behind the one in single precision.
        mode: The penalty's.
        **options: The optimizer's.
    """

    def __init__(self, scheme: str, device: str, half: bool = False, mode: str = "loss", **options: bool) -> None:
        torch.manual_seed(0)
        net = {"trunk": nn.Linear(8, 16), "aux": nn.Linear(16, 4), "main": nn.Linear(16, 1)}
        self.net, self.device, self.half = nn.ModuleDict(net).to(device), device, half
        self.criterion = WeightedLoss(make_scheme(scheme, TERMS), penalties={"l2": L2(1e-2, mode=mode)}).to(device)
        groups = [{"params": list(self.net.parameters())}, *self.criterion.parameter_groups()]
        self.optimizer = torch.optim.Adam(groups, lr=1e-2, **options)
        self.criterion.attach(self.optimizer, self.net)
        self.scaler = torch.amp.GradScaler(device, init_scale=2.0**8, enabled=half)
        self.x = torch.randn(32, 8).to(device)

    def total(self) -> Tensor:
        with torch.autocast(self.device, torch.float16, enabled=self.half):
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
