"""Means of the plain losses of a validation or a test."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from lossbalance._utils.checks import check_names
from lossbalance.callbacks.keys import evaluation_key, without_loader
from lossbalance.callbacks.logs import publish
from lossbalance.callbacks.running_means import RunningMeans
from lossbalance.callbacks.statistics import CallReader, TermStatistics, finite_means
from lossbalance.criterion.breakdown import tabulate
from lossbalance.criterion.weighted_loss import WeightedLoss


class EvaluationStatistics:
    """The mean of each plain loss over one run through the data, for each loader apart.

    Args:
        criteria: The criteria, by the prefix of the names of their terms.
        stage: ``"val"`` or ``"test"``.
        device: The device of the losses.
    """

    def __init__(self, criteria: Mapping[str, WeightedLoss], stage: str, device: torch.device) -> None:
        self.criteria, self.stage, self.device = criteria, stage, device
        self._means = {(prefix, 0): self._empty_means(prefix) for prefix in criteria}  # of each loader
        self._calls = {prefix: CallReader(criterion) for prefix, criterion in criteria.items()}
        for calls in self._calls.values():
            calls.take()  # that of before

    def start(self, trainer: Trainer) -> None:
        """Clears what this class logged last time, so that what is there at the end was logged by the module."""
        mine = {
            evaluation_key(self.stage, prefix + term) for prefix, each in self.criteria.items() for term in each.terms
        }
        for name in list(trainer.callback_metrics):
            if without_loader(name) in mine:
                trainer.callback_metrics.pop(name)

    def update(self, outputs: Any, batch_size: int, loader: int) -> None:
        """Adds the losses of a batch, without waiting for the device."""
        for prefix in self.criteria:
            row = self._read(prefix, outputs)
            if row is not None:
                means = self._means.setdefault((prefix, loader), self._empty_means(prefix))
                means.update(row.unsqueeze(0), torch.tensor([batch_size]))

    def close(self, trainer: Trainer) -> None:
        """Publishes the means that the module has not logged itself, under the names that Lightning gives them."""
        means: dict[str, float] = {}
        several = any(loader for _, loader in self._means)
        for (prefix, loader), each in self._means.items():
            number = loader if several else None
            names = [evaluation_key(self.stage, prefix + term, number) for term in self.criteria[prefix].terms]
            means |= finite_means(names, each)
        logged = set(trainer.callback_metrics)
        publish(trainer, {name: mean for name, mean in means.items() if name not in logged})

    def _read(self, prefix: str, outputs: Any) -> Tensor | None:
        """Returns the losses ``[terms]``, nan for an absent term; None if the step returned none."""
        terms = self.criteria[prefix].terms
        if len(self.criteria) == 1 and isinstance(outputs, Mapping) and "losses" in outputs:
            check_names("losses", outputs["losses"], terms)
            absent = torch.full((), math.nan, device=self.device)
            losses = [outputs["losses"][term] for term in terms]
            return torch.stack([absent if loss is None else loss.detach() for loss in losses])
        step = self._calls[prefix].take()
        return None if step is None else tabulate([step])[0, 0]

    def _empty_means(self, prefix: str) -> RunningMeans:
        return RunningMeans(len(self.criteria[prefix].terms)).to(self.device)


def read_validation(trainer: Trainer, statistics: Sequence[TermStatistics]) -> dict[str, float]:
    """Returns the plain losses of the last validation, whoever has logged them, by the names of the terms."""
    terms = [f"{each.prefix}{term}" for each in statistics for term in each.criterion.terms]
    metrics = trainer.callback_metrics
    keys = {term: evaluation_key("val", term) for term in terms}
    return {term: float(metrics[key]) for term, key in keys.items() if key in metrics}
