"""Watches every term of a training."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from lossbalance._utils.checks import check_names
from lossbalance._utils.distributed import world_size
from lossbalance._utils.extras import explain_missing
from lossbalance.breakdown import Step, tabulate
from lossbalance.callbacks.diagnostics import Epochs, diagnose_parameters, diagnose_terms
from lossbalance.callbacks.find_criterion import find_balancer, find_criterion
from lossbalance.callbacks.lightning_callback import LightningCallback
from lossbalance.callbacks.running_means import RunningMeans
from lossbalance.penalties import Penalty
from lossbalance.weighted_loss import WeightedLoss

QUANTITIES = ("loss", "weight", "contribution", "gradient_share", "not_finite")
_AT_ONCE = 50  # steps that are counted together


class LossMonitor(LightningCallback):
    """Logs what each term weighs, draws it, and warns when something is off.

    It finds the criterion by itself: that of ``BalanceLosses``, or the :class:`WeightedLoss` that the module owns. At
    the end of each epoch it sends to the trainer's loggers, and makes known to other callbacks, the means of

    - ``loss/<term>``, the plain loss, and ``weight/<term>``, over the samples whose batch has the term;
    - ``contribution/<term>``, weight times loss, over all samples, so that contributions add up to the total;
    - ``gradient_share/<term>``, the term's part of the gradient at the probes, where there are any;
    - ``penalty/<name>``, the penalty's value, and ``gradient_share/<name>``, the part of its gradient over the weights
      that it counts, in the steps that are logged and the last; see :mod:`lossbalance.penalties.report`;
    - ``not_finite/<term>``, the part of the samples whose loss was not, if any;
    - ``val/loss/<term>`` and ``test/loss/<term>``, the plain losses, where the step calls the criterion or returns
      ``{"losses": {...}}`` and the module does not log them itself.

    Every ``log_every_n_steps`` it sends the means since the last time, with ``_step`` behind the name. A mean covers
    all ranks and counts each batch by its size, the length of its first tensor. A loss that is not finite is left out.

    Args:
        pictures: Whether to draw ``losses.png`` into the logger's folder at the end of fit; loggers that take pictures
            get it too.

    Attributes:
        last_epoch: For each term, and each penalty, the means over the last epoch of training: ``loss``, ``weight``,
            ``contribution``, ``value_share`` (its part of the contributions, in magnitude) and ``gradient_share``,
            nan where it was not measured. The weight of a penalty is its strength, where that is one number, or what
            ``share`` amounts to at the end.
        history: What was logged of the training at the end of each epoch, with its number as ``epoch``.

    Raises:
        ValueError: When training starts, if there is no criterion, or the module owns several.
    """

    _criterion: WeightedLoss

    def __init__(self, pictures: bool = True) -> None:
        self.pictures = pictures
        self.last_epoch: dict[str, dict[str, float]] = {}
        self.history: list[dict[str, float]] = []
        self._course: list[dict[str, float]] = []  # what was logged between, for the pictures of a short training
        self._means: dict[str, RunningMeans] = {}  # since the last epoch, since the last log, of the evaluation
        self._resumed: dict[str, Any] = {}
        self._seen: Tensor | None = None  # the total of the last call that was looked at
        self._uncounted: list[tuple[Step, int]] = []  # steps, and the sizes of their batches
        self._penalty_shares: list[Tensor] = []  # of the gradient, in this epoch
        self._logged_at = 0
        self._warned: set[str] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds the criterion and starts to count, or goes on where the checkpoint was written."""
        self._criterion = find_criterion(trainer, pl_module, type(self).__name__)
        if not self._resumed:
            self.last_epoch, self.history, self._course = {}, [], []
        if find_balancer(trainer) is None:
            self._warn(diagnose_parameters(self._criterion, trainer.optimizers))
        for span in ("epoch", "log"):
            self._restart(span, pl_module)
            if span in self._resumed:
                self._means[span].load_state_dict(self._resumed[span])
        self._penalty_shares = [share.to(pl_module.device) for share in self._resumed.get("penalty_shares", [])]
        self._resumed = {}
        self._uncounted.clear()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Brings the ranks together before one of them may save."""
        if world_size() > 1 and find_balancer(trainer) is None:
            self._criterion.synchronize()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Measures the gradients of the penalties, now and then."""
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        due = trainer.is_last_batch or (every and (trainer.global_step + 1) % every == 0)
        if due and self._criterion.penalties:
            reports = self._criterion.report_penalties().values()
            self._penalty_shares.append(torch.stack([report.gradient_share for report in reports]))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the batch, without waiting for the device."""
        step_taken = self._newest()
        if step_taken is not None:
            self._uncounted.append((step_taken, _batch_size(batch)))
        if len(self._uncounted) == _AT_ONCE:
            self._count()
        every, step = trainer.log_every_n_steps, trainer.global_step  # type: ignore[attr-defined]
        if every and step % every == 0 and step != self._logged_at:
            self._count()
            means = self._training_means("log")
            _log(trainer, {f"{name}_step": mean for name, mean in means.items()})
            self._course.append({"step": step, **means})
            self._close_log(pl_module)
            self._logged_at = step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the epoch."""
        self._count()
        self._close_log(pl_module)
        metrics = self._training_means("epoch") | self._penalty_gradients()
        self._restart("epoch", pl_module)
        self.last_epoch = _by_name(metrics, self._criterion.terms, _strengths(self._criterion))
        self.history.append({"epoch": trainer.current_epoch, **metrics})
        _publish(trainer, metrics)
        balancer = find_balancer(trainer)
        probes = self._criterion.probes
        probed = {*probes.placed, *probes.probed, *(balancer.probes if balancer else ())}
        self._warn(diagnose_terms(Epochs(self._criterion.terms, probed, self.history)))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the pictures."""
        folder = trainer.log_dir  # asked on all ranks, for they agree on it
        rehearsal = trainer.fast_dev_run  # type: ignore[attr-defined]
        if not self.pictures or not self.history or rehearsal or not trainer.is_global_zero:
            return
        try:
            from lossbalance.callbacks.plots import draw_history, send_picture  # need matplotlib
        except ImportError as error:
            rank_zero_warn(f"`LossMonitor` draws no losses.png: {explain_missing(error) or error}.")
            return
        by_epoch = len(self.history) > 1 or not self._course
        figure = draw_history(self.history, "epoch") if by_epoch else draw_history(self._course, "step")
        path = Path(folder or trainer.default_root_dir) / "losses.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        for logger in trainer.loggers:
            send_picture(logger, path, figure, trainer.global_step)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the pictures of a training that had nothing left to do."""
        if self._resumed:
            self.on_train_end(trainer, pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts to count."""
        self._start_evaluation(trainer, pl_module, "val")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts to count."""
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
        """Counts the plain losses of the batch."""
        losses = self._plain_losses(outputs)
        if losses:
            given = [losses[term] for term in self._criterion.terms]
            nothing = torch.full((), math.nan, device=pl_module.device)
            row = torch.stack([nothing if loss is None else loss.detach() for loss in given])
            self._means["evaluation"].update(row.unsqueeze(0), torch.tensor([_batch_size(batch)]))

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Counts the plain losses of the batch."""
        self.on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the plain losses."""
        if not trainer.sanity_checking:
            self._end_evaluation(trainer, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the plain losses."""
        self._end_evaluation(trainer, "test")

    def state_dict(self) -> dict[str, Any]:
        """What has been counted so far."""
        self._count()
        counting = {span: means.state_dict() for span, means in self._means.items()}
        kept = {"history": self.history, "course": self._course, "last_epoch": self.last_epoch}
        return {**kept, "penalty_shares": self._penalty_shares, **counting}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there when training starts; until then, the last epoch is the one that was saved."""
        self._resumed = state_dict
        self.last_epoch = state_dict.get("last_epoch", {})
        self.history, self._course = state_dict.get("history", []), state_dict.get("course", [])

    def _warn(self, troubles: Iterable[tuple[str, str]]) -> None:
        for trouble, message in troubles:
            if trouble not in self._warned:
                self._warned.add(trouble)
                rank_zero_warn(message)

    def _restart(self, span: str, pl_module: LightningModule) -> None:
        terms, penalties = len(self._criterion.terms), len(self._in_total)
        size = terms if span == "evaluation" else len(QUANTITIES) * terms + penalties
        means = self._means.get(span)
        if means is not None and means.num_values == size and means.device == pl_module.device:
            means.reset()
        else:
            self._means[span] = RunningMeans(size).to(pl_module.device)

    @property
    def _in_total(self) -> list[str]:
        return [name for name, penalty in self._criterion.penalties.items() if penalty.mode == "loss"]

    def _count(self) -> None:
        """Counts the steps since the last time, all at once, for one by one they cost as much as small networks do."""
        if not self._uncounted:
            return
        steps, sizes = zip(*self._uncounted, strict=True)
        losses, weights, contributions, shares = tabulate(steps).unbind(dim=1)
        weights = weights.where(losses.isfinite(), math.nan)  # what an absent term would weigh means nothing
        penalties = [torch.stack([step.penalties[name] for step in steps]).unsqueeze(1) for name in self._in_total]
        cells = [losses, weights, contributions, shares, 0.0 + ~contributions.isfinite(), *penalties]
        self._means["log"].update(torch.cat(cells, dim=1), torch.tensor(sizes))
        self._uncounted.clear()

    def _close_log(self, pl_module: LightningModule) -> None:
        self._means["epoch"].absorb(self._means["log"])
        self._restart("log", pl_module)

    def _newest(self) -> Step | None:
        """Returns the criterion's last call, once."""
        step = self._criterion.last_step()
        if step is None or step.total is self._seen:
            return None
        self._seen = step.total
        return step

    def _training_means(self, span: str) -> dict[str, float]:
        names = [f"{quantity}/{term}" for quantity in QUANTITIES for term in self._criterion.terms]
        means = _finite([*names, *(f"penalty/{name}" for name in self._in_total)], self._means[span])
        for name in self._criterion.penalties.keys() - set(self._in_total):  # those that the optimizer applies
            means[f"penalty/{name}"] = self._criterion.last.penalties[name].item()
        return {name: mean for name, mean in means.items() if mean or not name.startswith("not_finite")}

    def _penalty_gradients(self) -> dict[str, float]:
        """Returns the penalties' mean shares of the gradient in this epoch, and forgets them."""
        if not self._penalty_shares:
            return {}
        means = torch.stack(self._penalty_shares).nanmean(dim=0).tolist()
        self._penalty_shares = []
        return {f"gradient_share/{name}": mean for name, mean in zip(self._criterion.penalties, means, strict=True)}

    def _plain_losses(self, outputs: Any) -> Mapping[str, Tensor | None]:
        if isinstance(outputs, Mapping) and "losses" in outputs:
            check_names("losses", outputs["losses"], self._criterion.terms)
            return outputs["losses"]
        step = self._newest()
        return {} if step is None else dict(zip(self._criterion.terms, tabulate([step])[0, 0], strict=True))

    def _start_evaluation(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._criterion = find_criterion(trainer, pl_module, type(self).__name__)
        self._restart("evaluation", pl_module)
        for term in self._criterion.terms:  # what is there at the end, the module has logged
            trainer.callback_metrics.pop(f"{stage}/loss/{term}", None)

    def _end_evaluation(self, trainer: Trainer, stage: str) -> None:
        metrics = _finite([f"{stage}/loss/{term}" for term in self._criterion.terms], self._means["evaluation"])
        logged = set(trainer.callback_metrics)
        _publish(trainer, {name: mean for name, mean in metrics.items() if name not in logged})


def _batch_size(batch: Any) -> int:
    return next((leaf.size(0) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim), 1)


def _finite(names: Iterable[str], means: RunningMeans) -> dict[str, float]:
    return {name: mean for name, mean in zip(names, means.compute().tolist(), strict=True) if math.isfinite(mean)}


def _strengths(criterion: WeightedLoss) -> dict[str, float]:
    """Returns the strength of each penalty; 1 where it has several."""
    penalties = {name: penalty for name, penalty in criterion.penalties.items() if isinstance(penalty, Penalty)}
    strengths = {name: penalty.effective_strength for name, penalty in penalties.items()}
    return {name: 1.0 if isinstance(strength, Mapping) else float(strength) for name, strength in strengths.items()}


def _by_name(
    metrics: Mapping[str, float], terms: Iterable[str], strengths: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    names = [*terms, *strengths]
    rows = {name: {key: metrics.get(f"{key}/{name}", math.nan) for key in QUANTITIES[:4]} for name in names}
    for name, strength in strengths.items():
        value = metrics.get(f"penalty/{name}", math.nan)
        rows[name] |= {"loss": value / strength if strength else math.nan, "weight": strength, "contribution": value}
    magnitude = sum(abs(row["contribution"]) for row in rows.values())
    for row in rows.values():
        row["value_share"] = abs(row["contribution"]) / magnitude if magnitude else math.nan
    return rows


def _publish(trainer: Trainer, metrics: Mapping[str, float]) -> None:
    """Sends the means of an epoch to loggers and to other callbacks."""
    values = {name: torch.tensor(mean) for name, mean in metrics.items()}
    trainer.callback_metrics.update(values)
    trainer.logged_metrics.update(values)
    _log(trainer, metrics)


def _log(trainer: Trainer, metrics: Mapping[str, float]) -> None:
    step = max(trainer.global_step - 1, 0)  # as Lightning counts
    for logger in trainer.loggers if metrics else []:
        logger.log_metrics({"epoch": trainer.current_epoch, **metrics}, step=step)
        logger.save()
