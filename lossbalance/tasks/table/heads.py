"""Output size, loss, metric and skill of each kind of target."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric, R2Score
from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy

from lossbalance.tasks.table.targets import Target


class TargetHead(ABC):
    """One kind of target; labels that are missing are nan.

    Args:
        outputs: Output size.
        name: Name of the metric.
        metric: Compares outputs and labels; higher is better.

    Attributes:
        unit: The loss in the target's own unit, per unit of the training loss.
    """

    unit = 1.0

    def __init__(self, outputs: int, name: str, metric: Metric) -> None:
        self.outputs, self.name, self.metric = outputs, name, metric

    @abstractmethod
    def errors(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Returns the loss of each row ``[batch]`` for outputs ``[batch, outputs]`` and labels ``[batch]``."""

    @abstractmethod
    def compared(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the arguments of the metric."""

    @abstractmethod
    def skill(self, value: Tensor) -> Tensor:
        """Returns the metric on a common scale: 0 for the best constant prediction, 1 for a perfect one."""

    def loss(self, outputs: Tensor, labels: Tensor, count: int) -> Tensor:
        """Returns the mean loss ``[]`` over the ``count`` rows that have a label."""
        missing = labels.isnan()
        return self.errors(outputs, labels.nan_to_num()).masked_fill(missing, 0.0).sum() / count

    def score(self, outputs: Tensor, labels: Tensor) -> None:
        """Updates the metric with the rows that have a label."""
        there = ~labels.isnan()
        if there.any():
            self.metric.update(*self.compared(outputs[there], labels[there]))


class Number(TargetHead):
    """Regression: squared error and R2.

    Outputs and labels are standardized. Training minimizes the squared error of standardized numbers, or of numbers in
    the target's own unit: a target of large numbers then has a large loss.

    Args:
        scale: The standard deviation.
        standardize: Whether the training loss is that of standardized numbers.
    """

    def __init__(self, scale: float, standardize: bool = True) -> None:
        super().__init__(1, "r2", R2Score())
        self.unit = scale**2 if standardize else 1.0
        self._factor = 1.0 if standardize else scale**2

    def errors(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Returns the squared errors."""
        return self._factor * (outputs.squeeze(1) - labels).square()

    def compared(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns outputs and labels, both standardized: large numbers would be rounded."""
        return outputs.squeeze(1), labels

    def skill(self, value: Tensor) -> Tensor:
        """Returns R2: the mean has 0."""
        return value


class Binary(TargetHead):
    """Binary classification: log loss and area under the ROC curve."""

    def __init__(self) -> None:
        super().__init__(1, "auc", BinaryAUROC())

    def errors(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Returns the log losses."""
        return functional.binary_cross_entropy_with_logits(outputs.squeeze(1), labels, reduction="none")

    def compared(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the probabilities of the second class, and the classes."""
        return torch.sigmoid(outputs.squeeze(1)), labels.long()

    def skill(self, value: Tensor) -> Tensor:
        """Returns 2 AUC - 1: guessing has 0."""
        return 2 * value - 1


class Classes(TargetHead):
    """Multi-class classification: cross-entropy and accuracy.

    Args:
        outputs: Number of classes.
        most: Frequency of the most frequent class in the training rows.
    """

    def __init__(self, outputs: int, most: float) -> None:
        super().__init__(outputs, "accuracy", MulticlassAccuracy(outputs, average="micro"))
        self.most = most

    def errors(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Returns the cross-entropies."""
        return functional.cross_entropy(outputs, labels.long(), reduction="none")

    def compared(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the outputs, of which the largest is the answer, and the classes."""
        return outputs, labels.long()

    def skill(self, value: Tensor) -> Tensor:
        """Returns the accuracy relative to that of the most frequent class."""
        return (value - self.most) / (1 - self.most)


def make_head(target: Target, standardize: bool = True) -> TargetHead:
    """Returns the head of a target.

    Args:
        target: The target.
        standardize: Whether the training loss of a number is that of standardized numbers.
    """
    if target.kind == "number":
        return Number(target.scale, standardize)
    return Binary() if target.kind == "binary" else Classes(len(target.classes), target.frequency)
