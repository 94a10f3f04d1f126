"""Callback for Hugging Face's Trainer: logs each term, trains learned weights, saves the criterion."""

import base64
import io
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from lossbalance._utils.distributed import world_size
from lossbalance.callbacks.scheme_optimizer import SchemeOptimizer
from lossbalance.criterion.weighted_loss import WeightedLoss
from lossbalance.integrations.loop_monitor import LoopMonitor
from lossbalance.integrations.no_decay import NoDecay


class WeightedLossCallback(TrainerCallback, ExportableState):
    """Logs, trains and saves a criterion in ``transformers.Trainer``.

    The criterion is called where the loss is computed, in the model's ``forward`` or in a ``compute_loss_func``::

        criterion = WeightedLoss(Uncertainty(["intent", "slot"]))

        def compute_loss(outputs, labels, num_items_in_batch=None):
            return criterion({"intent": ..., "slot": ...})

        Trainer(..., compute_loss_func=compute_loss, callbacks=[WeightedLossCallback(criterion)])

    - To each training log it adds what :class:`~lossbalance.callbacks.LossMonitor` logs: ``loss/<term>``,
      ``weight/<term>``, ``contribution/<term>`` and so on; contributions and penalties add up to the total.
      ``monitor`` has the means of each epoch and the diagnoses.
    - What the scheme learns is trained without weight decay: by an optimizer of the callback, Adam, where the criterion
      is no part of the model; by the Trainer's optimizer, with decay off, where it is.
    - The criterion is saved in each checkpoint, in ``trainer_state.json``, and restored by
      ``trainer.train(resume_from_checkpoint=...)``, bit for bit.

    Args:
        criterion: The criterion.
        lr: The learning rate of what the scheme learns, where the callback trains it; None for the scheme's own, or
            else 0.01.

    Attributes:
        monitor: The :class:`~lossbalance.integrations.LoopMonitor` of the training.

    Raises:
        TypeError: If ``criterion`` is not a :class:`WeightedLoss`, or ``lr`` not a number.
        ValueError: If ``lr`` is not positive.
    """

    def __init__(self, criterion: WeightedLoss, lr: float | None = None) -> None:
        self.criterion, self.lr = criterion, lr
        self.monitor = LoopMonitor(criterion)
        self._optimizer: SchemeOptimizer | None = None
        self._no_decay: NoDecay | None = None

    def attach(self, trainer: Trainer) -> "WeightedLossCallback":
        """Puts the callback before those that report to TensorBoard or the like, so that they get its values."""
        handler = trainer.callback_handler
        others = [each for each in handler.callbacks if each is not self]
        handler.callbacks = [self, *others]
        return self

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Trains what the scheme learns without weight decay, and restores a checkpoint."""
        self.criterion.to(args.device).train()
        parameters = [each for each in self.criterion.parameters() if each.requires_grad]
        own_groups = self.criterion.parameter_groups(self.lr)
        groups = getattr(optimizer, "param_groups", [])
        held = {id(each) for group in groups for each in group["params"]}
        if any(id(each) in held for each in parameters):
            self._no_decay = NoDecay(getattr(optimizer, "optimizer", optimizer), parameters)
        elif parameters:
            self._optimizer = SchemeOptimizer(own_groups, self.criterion.terms, self.criterion.ranks)
        self._restore(state)

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Adds a batch whose gradients are accumulated."""
        self._update(args)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, optimizer: Any = None, **_: Any
    ) -> None:
        """Adds the batch, and updates what the scheme learns."""
        self._update(args)
        if world_size() > 1:
            self.criterion.synchronize()
        if self._optimizer is not None:
            self._optimizer.step(state.global_step, getattr(optimizer, "scaler", None))
            self._optimizer.optimizer.zero_grad()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Adds the means since the last log to a log of the training."""
        if logs is None or "loss" not in logs:
            return
        means = self.monitor.log()
        logs.update(means)
        if state.log_history:
            state.log_history[-1].update(means)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Closes the epoch of the monitor."""
        self.monitor.end_epoch()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Leaves the Trainer's optimizer as it was."""
        if self._no_decay is not None:
            self._no_decay.remove()

    def state(self) -> dict[str, Any]:
        """The state of criterion, optimizer and monitor, as text for ``trainer_state.json``."""
        optimizer = None if self._optimizer is None else self._optimizer.optimizer.state_dict()
        state = {"terms": list(self.criterion.terms), "criterion": self.criterion.state_dict(), "optimizer": optimizer}
        buffer = io.BytesIO()
        torch.save(state | {"monitor": self.monitor.state_dict()}, buffer)
        return {"args": {}, "attributes": {"saved": base64.b64encode(buffer.getvalue()).decode()}}

    def _update(self, args: TrainingArguments) -> None:
        step = self.criterion.last_step()
        if self._optimizer is not None and step is not None:
            self._optimizer.observe_total(step.total)
        self.monitor.update(args.per_device_train_batch_size)

    def _restore(self, state: TrainerState) -> None:
        """Restores the state in ``trainer_state.json``, in a training that resumes."""
        callbacks: Any = (state.stateful_callbacks or {}) if state.global_step else {}
        found = callbacks.get(type(self).__name__)
        saved = found.get("attributes", {}).get("saved") if isinstance(found, dict) else None
        if saved is None:
            return
        restored = torch.load(io.BytesIO(base64.b64decode(saved)), map_location="cpu", weights_only=True)
        self.criterion.load_state_dict(restored["criterion"])
        self.monitor.load_state_dict(restored["monitor"])
        if float(state.epoch or 0.5).is_integer():  # a checkpoint is written before its epoch is closed
            self.monitor.end_epoch()
        if self._optimizer is not None and restored["optimizer"] is not None:
            self._optimizer.load_state_dict(restored["optimizer"], restored["terms"])
