"""Output size, loss and metric of a head."""

from abc import ABC, abstractmethod

from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric, R2Score
from torchmetrics.classification import MulticlassAccuracy

from lossbalance._utils.checks import check_integer


class Head(ABC):
    """Output size, loss and metric of a head.

    Args:
        outputs: Output size.
        name: Name of the metric.
        metric: Compares outputs and targets; higher is better.
    """

    def __init__(self, outputs: int, name: str, metric: Metric) -> None:
        self.outputs, self.name, self.metric = outputs, name, metric

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the loss ``[]``, a mean over the batch."""

    def score(self, outputs: Tensor, targets: Tensor) -> None:
        """Updates the metric with a batch."""
        self.metric.update(outputs, targets)


class Classification(Head):
    """Classification: cross-entropy and accuracy.

    Args:
        outputs: Number of classes.
    """

    def __init__(self, outputs: int) -> None:
        check_integer("outputs", outputs, 2)
        super().__init__(outputs, "accuracy", MulticlassAccuracy(outputs, average="micro"))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the cross-entropy of outputs ``[batch, classes]`` and targets ``[batch]``."""
        return functional.cross_entropy(outputs, targets)


class Reconstruction(Head):
    """Reconstruction of the image: squared error summed over pixels, and R2.

    Args:
        outputs: Number of pixels.
    """

    def __init__(self, outputs: int) -> None:
        check_integer("outputs", outputs, 1)
        super().__init__(outputs, "r2", R2Score(multioutput="variance_weighted"))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the squared error of outputs ``[batch, pixels]`` and images ``[batch, height, width]``."""
        return functional.mse_loss(outputs, targets.flatten(1), reduction="sum") / len(outputs)

    def score(self, outputs: Tensor, targets: Tensor) -> None:
        """Updates the metric with a batch."""
        super().score(outputs, targets.flatten(1))
