"""A LightningModule that trains on several losses."""

from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lossbalance.penalties import Penalty
from lossbalance.tasks.heads import Head
from lossbalance.tasks.network import IntermediateNet
from lossbalance.weighted_loss import WeightedLoss

Batch = Mapping[str, Tensor]


class MultiLossModule(pl.LightningModule):
    """Trains a network's heads on one loss each, weighed by a criterion.

    What is logged in validation and test is plain: each loss as it comes, each head's metric, and the mean of the
    heads' metrics of the same name. The weighted total is for training alone.

    Args:
        net: Makes the network from the number of outputs of each head; its ``branches`` are where the terms part.
        heads: What each term's head is asked.
        criterion: Weighs the losses.
        optimizer: Makes the optimizer from groups of parameters.
        penalties: Penalties that are terms beside those of the heads, weighed by the criterion.
    """

    def __init__(
        self,
        net: Callable[[dict[str, int]], IntermediateNet],
        heads: Mapping[str, Head],
        criterion: WeightedLoss,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        penalties: Mapping[str, Penalty] | None = None,
    ) -> None:
        super().__init__()
        self.net = net({term: head.outputs for term, head in heads.items()})
        self.heads = dict(heads)
        self.metrics = nn.ModuleDict({term: head.metric for term, head in heads.items()})
        self.criterion = criterion
        self.criterion.probe_inputs(dict(self.net.branches))  # so that every run shows the shares of the gradient
        self.optimizer = optimizer
        self.penalties = nn.ModuleDict(penalties or {})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Returns what each head says of the pictures."""
        return self.net(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the weighted total."""
        losses = self._losses(self(batch["image"]), batch)
        if not self.penalties:
            return self.criterion(losses, module=self.net)
        penalties = {name: penalty(self.net) for name, penalty in self.penalties.items()}
        return self.criterion(losses | penalties, module=self.net, shared=self.net.parameters())

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs the plain losses as ``val/loss/<term>``."""
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs the plain losses as ``test/loss/<term>``."""
        self._evaluate("test", batch)

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics, such as ``val/<term>/accuracy`` and ``val/accuracy``."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Logs the metrics, such as ``test/<term>/accuracy`` and ``test/accuracy``."""
        self._log_metrics("test")

    def configure_optimizers(self) -> Optimizer:
        """Gives what the criterion learns a group of its own: weight decay would drag the weights along."""
        optimizer = self.optimizer([{"params": list(self.net.parameters())}, *self.criterion.parameter_groups()])
        self.attachment = self.criterion.attach(optimizer, self.net)
        return optimizer

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Adds the gradients of the penalties that are to be clipped together with the losses."""
        self.attachment.before_clipping()

    def _losses(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {term: head.loss(outputs[term], batch[term]) for term, head in self.heads.items()}

    def _evaluate(self, stage: str, batch: Batch) -> None:
        outputs = self(batch["image"])
        losses = self._losses(outputs, batch)
        size = len(batch["image"])
        self.log_dict({f"{stage}/loss/{term}": loss for term, loss in losses.items()}, batch_size=size, sync_dist=True)
        for term, head in self.heads.items():
            head.score(outputs[term], batch[term])

    def _log_metrics(self, stage: str) -> None:
        by_name: dict[str, list[Tensor]] = {}
        for term, head in self.heads.items():
            value = head.metric.compute()  # over all ranks
            head.metric.reset()
            self.log(f"{stage}/{term}/{head.name}", value)
            by_name.setdefault(head.name, []).append(value)
        self.log_dict({f"{stage}/{name}": torch.stack(values).mean() for name, values in by_name.items()})
