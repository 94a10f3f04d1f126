"""Monitor of a Lightning training: logs and draws each term, and diagnoses faults."""

import os
from collections.abc import Iterable
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from lossbalance._utils.distributed import world_size
from lossbalance._utils.warn import warn_user
from lossbalance.callbacks.diagnostics import (
    diagnose,
    diagnose_detached,
    diagnose_parameters,
    diagnose_scheme,
)
from lossbalance.callbacks.epochs import Epochs
from lossbalance.callbacks.evaluation import EvaluationStatistics, read_validation
from lossbalance.callbacks.find_criterion import find_balancer, find_criteria
from lossbalance.callbacks.html import means_table
from lossbalance.callbacks.keys import step_key
from lossbalance.callbacks.lightning_callback import LightningCallback
from lossbalance.callbacks.logs import draw, find_folder, log, publish
from lossbalance.callbacks.loss_sum_diagnostics import diagnose_loss_sum
from lossbalance.callbacks.statistics import TermStatistics, merge
from lossbalance.criterion.weighted_loss import WeightedLoss


class LossMonitor(LightningCallback):
    """Logs loss, weight and share of each term, draws them, and warns of faults by name.

    It finds the criterion by itself: that of ``BalanceLosses``, or the :class:`WeightedLoss` that the module owns; of
    several, the terms have the criterion's name before theirs, ``loss/<criterion>/<term>``. At the end of each epoch it
    sends to the trainer's loggers, and to other callbacks, the means of

    - ``loss/<term>``, the plain loss, and ``weight/<term>``, over the samples whose batch has the term;
    - ``contribution/<term>``, weight times loss, over all samples, so that contributions add up to the total;
    - ``gradient_share/<term>``, the term's part of the gradient at the probes, where there are any;
    - ``cosine/<term>/<term>``, the cosine between the gradients of two terms, and ``conflict/<term>/<term>``, the part
      of the samples whose step had one below -0.1, where there is a branch;
    - ``penalty/<name>``, the penalty's value, and ``gradient_share/<name>``, the part of its gradient over the weights
      that it counts, in the steps that are logged and the last; see :mod:`lossbalance.penalties.report`;
    - ``zeros/<name>``, not a mean: how many weights of the penalty are exactly zero, of a group lasso how many groups;
    - ``distance/<term>``, not a mean: how far the loss of a term with a limit is above it, see
      :attr:`Constrained.distances <lossbalance.weighting.Constrained.distances>`;
    - ``not_finite/<term>``, the part of the samples whose loss was not, if any;
    - ``val/loss/<term>`` and ``test/loss/<term>``, the plain losses, where the step calls the criterion or returns
      ``{"losses": {...}}`` and the module does not log them itself; of several loaders each apart, as Lightning names
      them, ``val/loss/<term>/dataloader_idx_0``.

    Every ``log_every_n_steps`` it sends the means since the last time, with ``_step`` behind the name. A mean covers
    all ranks and counts each batch by its size, the length of its first tensor. A loss that is not finite is left out.

    Args:
        pictures: Whether to draw ``losses.png`` at the end of fit, into the logger's folder or the trainer's
            ``default_root_dir``, where that is not merely the current folder; loggers that take pictures get it too.
        title: The beginning of the title of the picture, before scheme and seed; None for the name of the module.

    Attributes:
        last_epoch: For each term, and each penalty, the means over the last epoch of training: ``loss``, ``weight``,
            ``contribution``, ``value_share`` (its part of the contributions, in magnitude) and ``gradient_share``,
            nan where it was not measured. The weight of a penalty is its strength, where that is one number, or what
            ``share`` amounts to at the end. A penalty has ``zeros`` of ``size`` weights or groups besides.
        diagnoses: The faults of the last epoch, a line each: since when, how much, and the likely cure. Each is also
            a warning when it first shows.
        history: The means of training that were logged at the end of each epoch, with its number as ``epoch``.

    Raises:
        TypeError: If ``pictures`` is not True or False, or ``title`` no string.
        ValueError: When training starts, if there is no criterion.
    """

    def __init__(self, pictures: bool = True, title: str | None = None) -> None:
        if not isinstance(pictures, bool):
            raise TypeError(f"`pictures` must be True or False, got {pictures!r}: the folder is that of the logger.")
        if not isinstance(title, str | None):
            raise TypeError(f"`title` must be a string or None, got {title!r}.")
        self.pictures, self.title, self._title = pictures, title, title
        self.last_epoch: dict[str, dict[str, float]] = {}
        self.history: list[dict[str, float]] = []
        self._steps: list[dict[str, float]] = []  # means between ends of epochs, for the picture of a short training
        self._statistics: list[TermStatistics] = []  # one for each criterion
        self._evaluation: EvaluationStatistics | None = None
        self._resumed: dict[str, Any] = {}
        self._logged_at = 0
        self.diagnoses: list[str] = []
        self._validation: list[dict[str, float]] = []  # the plain losses of each epoch
        self._warned: set[str] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds the criteria, and restores the sums of a checkpoint."""
        criteria = find_criteria(trainer, pl_module, type(self).__name__)
        self._statistics = [TermStatistics(each, pl_module.device, prefix) for prefix, each in criteria.items()]
        if not self._resumed:
            self.last_epoch, self.history, self._steps, self._validation = {}, [], [], []
        for each, state in zip(self._statistics, self._resumed.get("statistics", []), strict=False):
            each.load_state_dict(state)
        self._resumed = {}
        self._title = _describe(self.title or type(pl_module).__name__, criteria.values())
        self._logged_at = trainer.global_step
        has_schedule, clips = bool(trainer.lr_scheduler_configs), bool(trainer.gradient_clip_val)
        for each in self._statistics:
            self._warn(trainer, diagnose_loss_sum(each.criterion, trainer.optimizers, has_schedule, clips))
            if find_balancer(trainer) is None:
                self._warn(trainer, diagnose_parameters(each.criterion, trainer.optimizers))

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reduces measured norms over ranks before one of them may save."""
        if world_size() > 1 and find_balancer(trainer) is None:
            for each in self._statistics:
                each.criterion.synchronize()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Measures the gradients of the penalties, in steps that are logged."""
        if trainer.is_last_batch or self._is_due(trainer, trainer.global_step + 1):
            for each in self._statistics:
                each.measure_penalties()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds the batch, without waiting for the device."""
        for each in self._statistics:
            each.update(_batch_size(batch))
        if self._is_due(trainer, trainer.global_step):
            means = merge(each.close_log() for each in self._statistics)
            log(trainer, {step_key(name): mean for name, mean in means.items()})
            self._steps.append({"step": trainer.global_step, **means})
            self._logged_at = trainer.global_step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the epoch."""
        means = merge(each.close_epoch() for each in self._statistics)
        self.last_epoch = merge(each.tabulate(means) for each in self._statistics)
        self.history.append({"epoch": trainer.current_epoch, **means})
        publish(trainer, means)
        self._validation.append(read_validation(trainer, self._statistics))
        self.diagnoses = []
        for each in self._statistics:
            self._warn(trainer, diagnose_scheme(each.criterion))
            balancer = find_balancer(trainer)
            epochs = Epochs.of(each, balancer.probes if balancer else (), self.history, self._validation)
            self.diagnoses += diagnose_detached(epochs)
            self._warn(trainer, diagnose(epochs))

    def plot(self, title: str | None = None) -> Any:
        """Returns a figure of the epochs so far, ``losses.png``, for a notebook; needs matplotlib.

        Args:
            title: The title of the figure; None for that of the last training.
        """
        from lossbalance.callbacks.plots import draw_history

        return draw_history(self.history, validation=self._validation, title=self._title if title is None else title)

    def _repr_html_(self) -> str:
        return means_table(self.last_epoch, self.diagnoses)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the picture."""
        folder = find_folder(trainer)
        rehearsal = trainer.fast_dev_run  # type: ignore[attr-defined]
        if folder is not None and self.pictures and self.history and not rehearsal and trainer.is_global_zero:
            draw(trainer, folder, self.history, self._steps, self._validation, self._title)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the picture of a training that was complete when it was resumed."""
        if self._resumed:
            criteria = find_criteria(trainer, pl_module, type(self).__name__)
            self._title = _describe(self.title or type(pl_module).__name__, criteria.values())
            self.on_train_end(trainer, pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts new means."""
        self._start_evaluation(trainer, pl_module, "val")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts new means."""
        self._start_evaluation(trainer, pl_module, "test")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds the plain losses of the batch."""
        if self._evaluation is not None:
            self._evaluation.update(outputs, _batch_size(batch), dataloader_idx)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the plain losses."""
        if self._evaluation is not None and not trainer.sanity_checking:
            self._evaluation.close(trainer)

    on_test_epoch_end = on_validation_epoch_end

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        state = {"history": self.history, "course": self._steps, "last_epoch": self.last_epoch}
        state |= {"validation": self._validation}
        return state | {"statistics": [each.state_dict() for each in self._statistics]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the sums when training starts; until then, the last epoch is the one that was saved."""
        self._resumed = state_dict
        self.last_epoch = state_dict.get("last_epoch", {})
        self.history, self._steps = state_dict.get("history", []), state_dict.get("course", [])
        self._validation = state_dict.get("validation", [])

    def _start_evaluation(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        criteria = find_criteria(trainer, pl_module, type(self).__name__)
        self._evaluation = EvaluationStatistics(criteria, stage, pl_module.device)
        self._evaluation.start(trainer)

    def _is_due(self, trainer: Trainer, step: int) -> bool:
        """Returns whether a log is due after this number of optimizer steps."""
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(every) and step // every > self._logged_at // every

    def _warn(self, trainer: Trainer, faults: Iterable[tuple[str, str]]) -> None:
        for fault, message in faults:
            self.diagnoses.append(message)
            if fault not in self._warned and trainer.is_global_zero:
                warn_user(message)
            self._warned.add(fault)


def _describe(name: str, criteria: Iterable[WeightedLoss]) -> str:
    """Returns a title: a name, the schemes, and the seed where ``seed_everything`` has set one."""
    schemes = ", ".join(type(criterion.weighting).__name__ for criterion in criteria)
    seed = os.environ.get("PL_GLOBAL_SEED")
    return f"{name}, {schemes}" + ("" if seed is None else f", seed {seed}")


def _batch_size(batch: Any) -> int:
    return next((leaf.size(0) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim), 1)
