"""The callbacks in a Trainer on an accelerator, under every scheme and with penalties in every mode."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from lossbalance import WeightedLoss
from lossbalance.callbacks import AlphaSchedule, BalanceLosses, LossMonitor, loss_monitor
from lossbalance.penalties import L2
from tests.accelerator.device import NAME, Device, pretend
from tests.accelerator.schemes import SCHEMES, make_scheme
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

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:(The probe of )?'(aux|main)':UserWarning"),  # the monitor's diagnoses
]
PENALTIES: dict[str, dict[str, Any]] = {
    "loss": {"strength": 0.01},
    "gradient": {"strength": 0.01, "mode": "gradient"},
    "decoupled": {"strength": 0.01, "mode": "decoupled"},
    "share in loss": {"share": 0.1},
    "share in gradient": {"share": 0.1, "mode": "gradient", "clipped": True},
}
ACCELERATOR = {"accelerator": NAME, "strategy": NAME, "devices": 1}
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
    schedules = [AlphaSchedule({0: 0.3, 8: 0.8}, unit="steps")] if scheme == "alpha" else []
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


class Waits(pl.Callback):
    """Notes what the host has waited for in each step."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.of_steps: list[dict[str, int]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step > 0:
            self.of_steps.append(+self.device.waits)
        self.device.reset()


@pytest.mark.parametrize(("penalty", "float64"), [*((penalty, False) for penalty in PENALTIES), ("loss", True)])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_run_is_as_on_the_cpu_and_in_a_step_that_is_not_logged_the_host_never_waits(
    scheme, penalty, float64, tmp_path, monkeypatch
):
    monkeypatch.setattr(loss_monitor, "_AT_ONCE", 2)
    expected = train(scheme, penalty, tmp_path / "cpu")

    with pretend(float64) as device:
        waits = Waits(device)
        run = train(scheme, penalty, tmp_path / "device", callbacks=[waits], **ACCELERATOR)
        validated = evaluate(run, "validate")["val/loss/aux"]
        assert evaluate(run, "test")["test/loss/aux"] == validated > 0
        assert_same_run(run, expected)

    # Step 0 may wait, for it starts the scheme; after steps 3 and 7 the monitor logs, after step 5 the epoch ends.
    assert [waits.of_steps[step] for step in (1, 2, 4, 6)] == [{}] * 4


def evaluate(run: Run, stage: str) -> dict[str, Tensor]:
    getattr(run.trainer, stage)(run.module, batches(4, 2), verbose=False)
    return run.trainer.callback_metrics


@pytest.mark.parametrize(("saved_on", "resumed_on"), [("cpu", NAME), (NAME, "cpu")])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_checkpoint_of_the_device_resumes_on_the_cpu_and_the_reverse(scheme, saved_on, resumed_on, tmp_path):
    options, path = {"cpu": {}, NAME: ACCELERATOR}, tmp_path / "whole" / f"step={SAVED_AT}.ckpt"
    with pretend(float64=False):
        whole = train(scheme, "share in gradient", tmp_path / "whole", enable_checkpointing=True, **options[saved_on])
        resumed = train(scheme, "share in gradient", tmp_path / "resumed", path, **options[resumed_on])

        whole.module.cpu(), whole.balancer.criterion.cpu()
        assert_same_run(resumed, whole)
