"""Base class of tasks: a LightningModule that trains a network on several losses."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytorch_lightning as pl
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from lossbalance.criterion.weighted_loss import WeightedLoss
from lossbalance.penalties import Penalty

FINGERPRINT = "lossbalance_data"  # the key in checkpoints
Losses = Mapping[str, Tensor | None]


class TaskModule(pl.LightningModule, ABC):
    """Trains a network on several losses, weighted by a criterion.

    Subclasses compute outputs, losses and metrics, and mark the branch of the terms by probes. Validation and test log
    the unweighted losses, averaged over the samples that have them, and the metrics. The weighted total is used in
    training only.

    Args:
        net: The network.
        criterion: Weights the losses.
        optimizer: Makes the optimizer from groups of parameters.
        penalties: Penalties that are terms beside those of the task, weighted by the criterion.

    Attributes:
        units: By term, what a training loss is multiplied by to be in the unit that validation and test log; 1 where
            it is missing.
    """

    def __init__(
        self,
        net: nn.Module,
        criterion: WeightedLoss,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        penalties: Mapping[str, Penalty] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.criterion = criterion
        self.optimizer = optimizer
        self.penalties = nn.ModuleDict(penalties or {})
        self.terms = [term for term in criterion.terms if term not in self.penalties]
        self.means = nn.ModuleList(MeanMetric() for _ in self.terms)
        self.units: Mapping[str, float] = {}

    @classmethod
    def arguments_from(cls, data: Any) -> dict[str, Any]:
        """Returns arguments of the constructor that follow from the data; none by default."""
        return {}

    def fingerprint(self) -> dict[str, Any]:
        """Returns the properties of the data that the network depends on, as plain values; none by default."""
        return {}

    def differences(self, fingerprint: Mapping[str, Any]) -> list[str]:
        """Returns in which way the data differ from those of another fingerprint, named; nothing by default."""
        return []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the fingerprint of the data."""
        checkpoint[FINGERPRINT] = self.fingerprint()

    @abstractmethod
    def predict(self, batch: Any) -> Any:
        """Returns the outputs of the network for a batch."""

    @abstractmethod
    def losses(self, outputs: Any, batch: Any) -> Losses:
        """Returns each term's loss ``[]``, a mean over the samples that have it, or None where none has."""

    @abstractmethod
    def sizes(self, batch: Any) -> Mapping[str, int | Tensor]:
        """Returns over how many samples of the batch each term's loss is a mean."""

    @abstractmethod
    def score(self, outputs: Any, batch: Any) -> None:
        """Updates the metrics with a batch."""

    @abstractmethod
    def compute_metrics(self) -> dict[str, Tensor]:
        """Returns the metrics by name, such as ``main/accuracy``, over all ranks, and resets them."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Returns the weighted total."""
        losses = self.losses(self.predict(batch), batch)
        if not self.penalties:
            return self.criterion(losses, module=self.net)
        penalties = {name: penalty(self.net) for name, penalty in self.penalties.items()}
        return self.criterion({**losses, **penalties}, module=self.net, shared=self.net.parameters())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Updates the unweighted losses and the metrics with a batch."""
        self._evaluate(batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Updates the unweighted losses and the metrics with a batch."""
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        """Logs the unweighted losses, such as ``val/loss/main``, and the metrics."""
        self._log("val")

    def on_test_epoch_end(self) -> None:
        """Logs the unweighted losses, such as ``test/loss/main``, and the metrics."""
        self._log("test")

    def configure_optimizers(self) -> Optimizer:
        """Puts learned weights into a parameter group without weight decay."""
        optimizer = self.optimizer([{"params": list(self.net.parameters())}, *self.criterion.parameter_groups()])
        self.attachment = self.criterion.attach(optimizer, self.net)
        return optimizer

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Adds the gradients of penalties that are clipped together with the losses."""
        self.attachment.before_clipping()

    def mark_heads(self, trunk: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        """Measures the terms' shares of the gradient at the branch, and the conflicts between gradients.

        A penalty that is a term has no gradient there that could be combined with others.
        """
        if self.penalties:
            self.criterion.probe_inputs(heads)
        else:
            self.criterion.branch_output(trunk, heads)

    def _evaluate(self, batch: Any) -> None:
        outputs = self.predict(batch)
        losses, sizes = self.losses(outputs, batch), self.sizes(batch)
        for term, mean in self._means():
            loss = losses[term]
            mean.update(0.0 if loss is None else loss * self.units.get(term, 1.0), 0 if loss is None else sizes[term])
        self.score(outputs, batch)

    def _log(self, stage: str) -> None:
        for term, mean in self._means():
            self.log(f"{stage}/loss/{term}", mean.compute())
            mean.reset()
        self.log_dict({f"{stage}/{name}": value for name, value in self.compute_metrics().items()})

    def _means(self) -> list[tuple[str, MeanMetric]]:
        return list(zip(self.terms, cast("list[MeanMetric]", list(self.means)), strict=True))
