"""A small model with two losses and its plain loop, the reference of all hosts."""

import torch
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.weighting import Uncertainty

BATCHES, ROWS, EPOCHS = 10, 8, 2


class Task(nn.Module):
    """A trunk with two heads that returns its weighted total.

    Args:
        detach: Whether the loss ``aux`` is cut off its graph.
    """

    def __init__(self, detach=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.trunk, self.aux, self.main = nn.Linear(3, 4), nn.Linear(4, 1), nn.Linear(4, 1)
        self.criterion = WeightedLoss(Uncertainty(["aux", "main"]))
        self.detach = detach

    def forward(self, x, y):
        h = self.trunk(x).tanh()
        aux, main = (self.aux(h) - 30 * y).square().mean(), (self.main(h) - y.square()).square().mean()
        return {"loss": self.criterion({"aux": aux.detach() if self.detach else aux, "main": main})}


def rows():
    """The data: ``x`` of 80 rows, ``y``."""
    x = torch.randn(BATCHES * ROWS, 3, generator=torch.Generator().manual_seed(1))
    return x, x.sum(1, keepdim=True)


def batches():
    """The batches of an epoch."""
    return list(zip(*(each.split(ROWS) for each in rows()), strict=True))


def groups(task, fault=None):
    """Parameter groups with weight decay for matrices; with a fault if one is named."""
    learned = [task.criterion.weighting.log_variance]
    network = [each for each in task.parameters() if each is not learned[0]]
    matrices, vectors = ([p for p in network if (p.ndim > 1) is wide] for wide in (True, False))
    own = {"unheld": [], "decayed": [{"params": learned, "weight_decay": 0.1}]}
    return [
        {"params": matrices, "weight_decay": 0.1},
        {"params": vectors, "weight_decay": 0.0},
        *own.get(fault, task.criterion.parameter_groups()),
    ]


def make_optimizer(task, fault=None):
    return torch.optim.AdamW(groups(task, fault), lr=0.01)


def train_plainly(task, optimizer, epochs=EPOCHS):
    for x, y in batches() * epochs:
        optimizer.zero_grad()
        task(x, y)["loss"].backward()
        optimizer.step()
    return task


def plain_loop():
    """The task after 20 steps of the plain loop."""
    task = Task()
    return train_plainly(task, make_optimizer(task))


def reference():
    """The state of the plain loop after 20 steps."""
    return plain_loop().state_dict()


def assert_equal(task, expected):
    for name, value in task.state_dict().items():
        torch.testing.assert_close(
            value, expected[name], rtol=0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


class Dataset(torch.utils.data.Dataset):
    """The batches of an epoch, one by one."""

    def __len__(self):
        return BATCHES

    def __getitem__(self, index):
        return batches()[index]
