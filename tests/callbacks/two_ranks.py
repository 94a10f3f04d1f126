"""What two processes do together, run once for many tests: ``python -m tests.callbacks.two_ranks <folder>``."""

import os
import sys
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn

from lossbalance import WeightedLoss
from lossbalance.callbacks import BalanceLosses, LossMonitor
from tests.callbacks.modules import PROBES, SCHEMES, Drawn, OwnsCriterion, balance, batches, draw, make_trainer, scheme

STEPS = 6


class History(pl.Callback):
    """Keeps the weights of each step."""

    def __init__(self, criterion: WeightedLoss) -> None:
        self.criterion, self.weights = criterion, []

    def on_train_batch_end(self, *_: Any) -> None:
        self.weights.append(torch.stack(list(self.criterion.weights.values())))


class Sharded(Drawn):
    """Its parameters are spread over the ranks."""

    def configure_model(self) -> None:
        from torch.distributed.fsdp import fully_shard

        for layer in (self.trunk, self.aux_head, self.main_head):
            fully_shard(layer, mesh=self.device_mesh["data_parallel"])


class Owner(OwnsCriterion):
    """Draws its batches from the number of the step, one part for each rank."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x = draw(self.global_step, self.global_rank)
        return self.criterion(self.losses(x, x.sum(1, keepdim=True)), module=self)


def fit(
    module: pl.LightningModule, callbacks: list[pl.Callback], folder: Path, strategy: Any = None, **options: Any
) -> Any:
    strategy = strategy or DDPStrategy(process_group_backend="gloo", find_unused_parameters=True)
    ckpt_path = options.pop("ckpt_path", None)
    steps = {"max_steps": STEPS, "use_distributed_sampler": False, "devices": 2, "strategy": strategy}
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = make_trainer(callbacks, folder, enable_checkpointing=saves, **{**steps, **options})
    trainer.fit(module, batches(STEPS, 1), ckpt_path=ckpt_path)
    return {name: whole(parameter) for name, parameter in module.named_parameters()}


def whole(parameter: nn.Parameter) -> Tensor:
    return getattr(parameter, "full_tensor", lambda: parameter)().detach().clone()


def balanced(name: str, folder: Path, **faults: Any) -> dict[str, Any]:
    """Trains by ``BalanceLosses``, one part of the batch on each rank, then resumes from the middle."""
    rank = int(os.environ["LOCAL_RANK"])
    result = {}
    for run, ckpt_path in (("whole", None), ("resumed", folder / name / "step=3.ckpt")):
        callback = balance(name)
        history = History(callback.criterion)
        saving = ModelCheckpoint(folder / name, "{step}", every_n_train_steps=3, save_top_k=-1)
        parameters = fit(Drawn(parts=[rank], **faults), [callback, history, saving], folder, ckpt_path=ckpt_path)
        state = callback.criterion.weighting.state_dict()
        result[run] = {"parameters": parameters, "weights": torch.stack(history.weights), "state": deepcopy(state)}
    return result


def owned(name: str, folder: Path) -> dict[str, Any]:
    """Trains a module that owns its criterion beside a monitor, then resumes from the middle."""
    result = {}
    for run, ckpt_path in (("whole", None), ("resumed", folder / name / "step=3.ckpt")):
        saving = ModelCheckpoint(folder / name, "{step}", every_n_train_steps=3, save_top_k=-1)
        callbacks = [LossMonitor(pictures=False), saving]
        result[run] = fit(Owner(scheme(name)), callbacks, folder, ckpt_path=ckpt_path)
    return result


def monitored(folder: Path) -> dict[str, Any]:
    """Counts batches of uneven sizes, other ones on each rank."""
    monitor, module = LossMonitor(pictures=False), OwnsCriterion(scheme("fixed"), lr=0.0)
    data = batches(10, 3).dataset
    rank = int(os.environ["LOCAL_RANK"])
    loader = torch.utils.data.DataLoader(torch.utils.data.Subset(data, [range(6), range(6, 10)][rank]), batch_size=3)
    strategy = DDPStrategy(process_group_backend="gloo")
    options = {"max_epochs": 1, "use_distributed_sampler": False, "devices": 2, "strategy": strategy}
    make_trainer([monitor], folder, **options).fit(module, loader)
    return monitor.last_epoch


def sharded(name: str, folder: Path) -> dict[str, Any]:
    """Trains with FSDP2."""
    rank = int(os.environ["LOCAL_RANK"])
    callback = BalanceLosses(WeightedLoss(scheme(name)), probes=PROBES)
    history = History(callback.criterion)
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo")
    module = Sharded(parts=[rank])
    parameters = fit(module, [callback, LossMonitor(pictures=False), history], folder, strategy)
    return {"parameters": parameters, "weights": torch.stack(history.weights)}


def main(folder: Path) -> None:
    """Runs everything, and leaves what came of it in a file for each rank."""
    warnings.simplefilter("ignore")  # Lightning's advice, once for each of many trainings
    rank = int(os.environ["LOCAL_RANK"])
    faults = {"lacks": [1] if rank == 1 else [], "breaks": [4] if rank == 0 else []}
    results = {
        "ddp": {name: balanced(name, folder / "ddp") for name in SCHEMES},
        "faults": {name: balanced(name, folder / "faults", **faults) for name in SCHEMES},
        "owned": {name: owned(name, folder / "owned") for name in SCHEMES},
        "monitor": monitored(folder),
        "sharded": {name: sharded(name, folder) for name in ("gradbalance", "uncertainty", "alpha")},
    }
    torch.save(results, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
