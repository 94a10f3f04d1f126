"""LightningModule of ``task=table``."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lossbalance.criterion.weighted_loss import WeightedLoss
from lossbalance.penalties import Penalty
from lossbalance.tasks.base import TaskModule
from lossbalance.tasks.table.data import Rows, TableData
from lossbalance.tasks.table.heads import TargetHead
from lossbalance.tasks.table.network import TableNet
from lossbalance.tasks.table.schema import TableSchema, differences


class TableModule(TaskModule):
    """Predicts the targets of a table, one term each, weighted by a criterion.

    The metrics are ``<target>/r2``, ``<target>/auc`` or ``<target>/accuracy``, the means of those of the same name, and
    ``score``: the mean over all targets on a common scale, where 0 is the best constant prediction and 1 a perfect
    one. That is R2 for numbers, 2 AUC - 1 for two classes, and (accuracy - m) / (1 - m) for more,
    where m is the share of the most frequent class.

    Args:
        net: Makes the network from the number of features and of the outputs of each head.
        inputs: Number of features.
        heads: The head of each target, by name.
        schema: The columns, their scales and classes, which checkpoints keep.
        criterion: Weights the losses.
        optimizer: Makes the optimizer from groups of parameters.
        penalties: Penalties that are terms beside the targets, weighted by the criterion.
    """

    def __init__(
        self,
        net: Callable[[int, Sequence[int]], TableNet],
        inputs: int,
        heads: Mapping[str, TargetHead],
        schema: TableSchema,
        criterion: WeightedLoss,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        penalties: Mapping[str, Penalty] | None = None,
    ) -> None:
        network = net(inputs, [head.outputs for head in heads.values()])
        super().__init__(network, criterion, optimizer, penalties)
        self.heads, self.schema = dict(heads), schema
        self.units = {name: head.unit for name, head in heads.items()}
        self.metrics = nn.ModuleList(head.metric for head in heads.values())  # names of columns may have dots
        self.mark_heads(network.trunk, dict(zip(heads, network.heads, strict=True)))

    @classmethod
    def arguments_from(cls, data: TableData) -> dict[str, Any]:
        """Returns the number of features, the heads, and the schema."""
        return {"inputs": data.schema.encoder.width, "heads": data.heads, "schema": data.schema}

    def fingerprint(self) -> dict[str, Any]:
        """Returns the columns, their scales and classes as plain values."""
        return self.schema.state()

    def differences(self, fingerprint: Mapping[str, Any]) -> list[str]:
        """Returns in which way columns, scales, classes or rows differ."""
        return differences(fingerprint, self.schema.state())

    def predict(self, batch: Rows) -> list[Tensor]:
        """Returns the outputs of each head."""
        return self.net(batch.features)

    def losses(self, outputs: list[Tensor], batch: Rows) -> dict[str, Tensor | None]:
        """Returns each target's loss over the rows that have a label; None where none has."""
        columns = zip(self.heads.items(), outputs, batch.labels.unbind(1), batch.counts, strict=True)
        return {
            name: head.loss(output, labels, count) if count else None for (name, head), output, labels, count in columns
        }

    def sizes(self, batch: Rows) -> dict[str, int]:
        """Returns how many labels each target has."""
        return dict(zip(self.heads, batch.counts, strict=True))

    def score(self, outputs: list[Tensor], batch: Rows) -> None:
        """Updates the metrics with the rows that have a label."""
        for head, output, labels in zip(self.heads.values(), outputs, batch.labels.unbind(1), strict=True):
            head.score(output, labels)

    def compute_metrics(self) -> dict[str, Tensor]:
        """Returns the metrics and their means, and resets them."""
        metrics: dict[str, Tensor] = {}
        skills: list[Tensor] = []
        by_name: dict[str, list[Tensor]] = {}
        for name, head in self.heads.items():
            value = head.metric.compute()
            head.metric.reset()
            metrics[f"{name}/{head.name}"] = value
            by_name.setdefault(head.name, []).append(value)
            skills.append(head.skill(value))
        means = {name: torch.stack(values).mean() for name, values in by_name.items()}
        return {**metrics, **means, "score": torch.stack(skills).mean()}
