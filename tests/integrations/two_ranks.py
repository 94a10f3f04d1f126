"""Trains the small model on two ranks by DistributedDataParallel, Fabric and accelerate; run by torchrun."""

import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from lightning_fabric import Fabric
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.integrations.small import EPOCHS, Task, batches, make_optimizer

warnings.simplefilter("always", UserWarning)


def mine(epochs=EPOCHS):
    """The batches of this rank: half of the rows of each."""
    rank = dist.get_rank()
    return [(x[rank::2], y[rank::2]) for x, y in batches() * epochs]


def torchrun(task, optimizer):
    module = DistributedDataParallel(task, find_unused_parameters=task.detach)
    for x, y in mine():
        optimizer.zero_grad()
        module(x, y)["loss"].backward()
        optimizer.step()


def fabric(task, optimizer):
    host = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    host.launch()
    module, optimizer = host.setup(task, optimizer)
    for x, y in mine():
        optimizer.zero_grad()
        host.backward(module(x, y)["loss"])
        optimizer.step()


def accelerated(task, optimizer):
    host = Accelerator(cpu=True)
    module, optimizer = host.prepare(task, optimizer)
    for x, y in mine():
        optimizer.zero_grad()
        host.backward(module(x, y)["loss"])
        optimizer.step()


def main(folder):
    """Trains, saves, and meets each fault."""
    dist.init_process_group("gloo")
    for name, run in {"torchrun": torchrun, "fabric": fabric, "accelerate": accelerated}.items():
        task = Task()
        run(task, make_optimizer(task))
        if dist.get_rank() == 0:
            torch.save(task.state_dict(), folder / f"{name}.pt")
    task = Task(detach=True)
    torchrun(task, make_optimizer(task))
    task = Task()
    torchrun(task, make_optimizer(task, "unheld"))
    try:
        task.criterion.check(make_optimizer(task, "decayed"))
    except ValueError as error:
        print(error, file=sys.stderr)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
