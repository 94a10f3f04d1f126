"""Short runs of a Trainer with all callbacks, the same on every device."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from lossbalance import WeightedLoss
from lossbalance.callbacks import AlphaSchedule, BalanceLosses, LossMonitor, Schedule, WeightSchedule
from lossbalance.penalties import L2
from tests.accelerator.schemes import make_scheme
from tests.callbacks.modules import (
    PROBES,
    TERMS,
    TwoHeads,
    assert_equal,
    assert_same_state,
    batches,
    draw,
    make_trainer,
)

PENALTIES: dict[str, dict[str, Any]] = {
    "loss": {"strength": 0.01},
    "gradient": {"strength": 0.01, "mode": "gradient"},
    "decoupled": {"strength": 0.01, "mode": "decoupled"},
    "share in loss": {"share": 0.1},
    "share in gradient": {"share": 0.1, "mode": "gradient", "clipped": True},
}
STEPS, IN_EPOCH, SAVED_AT, LOGGED_EVERY = 8, 6, 3, 4


class Evaluated(TwoHeads):
    """Lacks a term in some steps, and is validated and tested."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        x = draw(self.global_step, 0).to(self.device, non_blocking=True)  # so that it can go on anywhere
        losses = self.losses(x, x.sum(1, keepdim=True))
        return {"loss": losses["main"], "losses": losses | ({"aux": None} if self.global_step == 2 else {})}

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return {"losses": self.losses(*batch)}

    test_step = validation_step


class Run(NamedTuple):
    module: Evaluated
    balancer: BalanceLosses
    monitor: LossMonitor
    trainer: Any


def train(
    scheme: str,
    penalty: str,
    folder: Path,
    ckpt_path: Path | None = None,
    callbacks: Sequence[pl.Callback] = (),
    **options: Any,
) -> Run:
    criterion = WeightedLoss(make_scheme(scheme, TERMS), {"l2": L2(**PENALTIES[penalty])})
    balancer, monitor = BalanceLosses(criterion, probes=PROBES), LossMonitor(pictures=False)
    factors = {"main": Schedule(0.5, 1.0, over="6 steps"), "l2": Schedule(1.0, 0.1, over="6 steps")}
    schedules: list[pl.Callback] = [WeightSchedule(factors)]
    if scheme == "alpha":
        schedules.append(AlphaSchedule({0: 0.3, 8: 0.8}, unit="steps"))
    options = {"log_every_n_steps": LOGGED_EVERY, "gradient_clip_val": 1.0, **options}
    everyone = [*callbacks, *schedules, balancer, monitor]
    if options.get("enable_checkpointing"):
        everyone.append(ModelCheckpoint(folder, "{step}", every_n_train_steps=SAVED_AT, save_top_k=-1))
    trainer, module = make_trainer(everyone, folder, max_steps=STEPS, **options), Evaluated()
    trainer.fit(module, batches(2 * IN_EPOCH, 2), batches(4, 2), ckpt_path=ckpt_path)
    return Run(module, balancer, monitor, trainer)


def assert_same_run(run: Run, expected: Run) -> None:
    assert_equal(run.module.cpu(), expected.module)
    assert_same_state(run.balancer.criterion.cpu().state_dict(), expected.balancer.criterion.state_dict())
    for epoch, other in zip(run.monitor.history, expected.monitor.history, strict=True):
        assert epoch == pytest.approx(other, rel=1e-6)


def evaluate(run: Run, stage: str) -> dict[str, Tensor]:
    getattr(run.trainer, stage)(run.module, batches(4, 2), verbose=False)
    return run.trainer.callback_metrics
