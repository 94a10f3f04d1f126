"""Small modules and trainers that the tests of the callbacks share."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lossbalance import WeightedLoss
from lossbalance.weighting.base import Weighting


class TwoHeads(pl.LightningModule):
    """A trunk of one layer, and two heads whose losses differ by orders of magnitude."""

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.lr = lr
        self.trunk, self.aux_head, self.main_head = nn.Linear(3, 4), nn.Linear(4, 1), nn.Linear(4, 1)

    def losses(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        h = self.trunk(x).tanh()
        return {
            "aux": (self.aux_head(h) - 30 * y).square().mean(),
            "main": (self.main_head(h) - y.square()).square().mean(),
        }

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        losses = self.losses(*batch)
        return {"loss": sum(losses.values()), "losses": losses}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class OwnsCriterion(TwoHeads):
    """Computes its weighted loss itself."""

    def __init__(self, weighting: Weighting, lr: float = 0.01) -> None:
        super().__init__(lr)
        self.criterion = WeightedLoss(weighting)
        self.criterion.probe_inputs({"aux": self.aux_head, "main": self.main_head})

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.criterion(self.losses(*batch), module=self)


def batches(samples: int, batch_size: int) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 3, generator=generator)
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=batch_size)


def train(module: pl.LightningModule, callbacks: Iterable[pl.Callback], data: Any, folder: Path, **options: Any) -> Any:
    trainer = trainer_for(callbacks, folder, **options)
    trainer.fit(module, data)
    return trainer


def trainer_for(callbacks: Iterable[pl.Callback], folder: Path, lightning: Any = pl, **options: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    quiet["enable_checkpointing"] = False
    return lightning.Trainer(callbacks=list(callbacks), default_root_dir=folder, **{**quiet, **options})
