"""LightningModule of the tasks on images of digits."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lossbalance.criterion.weighted_loss import WeightedLoss
from lossbalance.penalties import Penalty
from lossbalance.tasks.base import TaskModule
from lossbalance.tasks.heads import Head
from lossbalance.tasks.network import IntermediateNet

Batch = Mapping[str, Tensor]


class MultiLossModule(TaskModule):
    """Trains a network's heads on one loss each, weighted by a criterion.

    The metrics are those of the heads, and the means of those of the same name.

    Args:
        net: Makes the network from the output size of each head; the terms branch at its ``branches``.
        heads: The head of each term.
        criterion: Weights the losses.
        optimizer: Makes the optimizer from groups of parameters.
        penalties: Penalties that are terms beside those of the heads, weighted by the criterion.
    """

    def __init__(
        self,
        net: Callable[[dict[str, int]], IntermediateNet],
        heads: Mapping[str, Head],
        criterion: WeightedLoss,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        penalties: Mapping[str, Penalty] | None = None,
    ) -> None:
        network = net({term: head.outputs for term, head in heads.items()})
        super().__init__(network, criterion, optimizer, penalties)
        self.heads = dict(heads)
        self.metrics = nn.ModuleDict({term: head.metric for term, head in heads.items()})
        self.mark_heads(network.trunk, dict(network.branches))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Returns the outputs of each head."""
        return self.net(images)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the outputs of each head for a batch."""
        return self(batch["image"])

    def losses(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Returns each head's loss."""
        return {term: head.loss(outputs[term], batch[term]) for term, head in self.heads.items()}

    def sizes(self, batch: Batch) -> dict[str, int]:
        """Returns the number of images, the same for each term."""
        return dict.fromkeys(self.heads, len(batch["image"]))

    def score(self, outputs: Mapping[str, Tensor], batch: Batch) -> None:
        """Updates the metrics with a batch."""
        for term, head in self.heads.items():
            head.score(outputs[term], batch[term])

    def compute_metrics(self) -> dict[str, Tensor]:
        """Returns the metrics, such as ``main/accuracy`` and ``accuracy``, and resets them."""
        metrics: dict[str, Tensor] = {}
        by_name: dict[str, list[Tensor]] = {}
        for term, head in self.heads.items():
            metrics[f"{term}/{head.name}"] = value = head.metric.compute()
            head.metric.reset()
            by_name.setdefault(head.name, []).append(value)
        return metrics | {name: torch.stack(values).mean() for name, values in by_name.items()}
