"""What a head is asked: how wide its output is, its loss, and the metric that people read."""

from abc import ABC, abstractmethod

from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric, R2Score
from torchmetrics.classification import MulticlassAccuracy

from lossbalance._utils.checks import check_integer


class Head(ABC):
    """One kind of question: how many numbers the network answers it with, its loss, and its metric.

    Args:
        outputs: How many numbers the network gives for a picture.
        name: What the metric is called.
        metric: Compares outputs and targets; higher is better.
    """

    def __init__(self, outputs: int, name: str, metric: Metric) -> None:
        self.outputs, self.name, self.metric = outputs, name, metric

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the loss ``[]``, a mean over the batch."""

    def score(self, outputs: Tensor, targets: Tensor) -> None:
        """Takes a batch into the metric."""
        self.metric.update(outputs, targets)


class Classification(Head):
    """Which class it is: cross-entropy and accuracy.

    Args:
        outputs: How many classes there are.
    """

    def __init__(self, outputs: int) -> None:
        check_integer("outputs", outputs, 2)
        super().__init__(outputs, "accuracy", MulticlassAccuracy(outputs, average="micro"))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the cross-entropy of outputs ``[batch, classes]`` and targets ``[batch]``."""
        return functional.cross_entropy(outputs, targets)


class Reconstruction(Head):
    """What the picture looks like: the squared error, summed over the pixels, and R2.

    Args:
        outputs: How many pixels there are.
    """

    def __init__(self, outputs: int) -> None:
        check_integer("outputs", outputs, 1)
        super().__init__(outputs, "r2", R2Score(multioutput="variance_weighted"))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the squared error of outputs ``[batch, pixels]`` and pictures ``[batch, height, width]``."""
        return functional.mse_loss(outputs, targets.flatten(1), reduction="sum") / len(outputs)

    def score(self, outputs: Tensor, targets: Tensor) -> None:
        """Takes a batch into the metric."""
        super().score(outputs, targets.flatten(1))
