"""The callbacks in a Trainer on an accelerator, under every scheme and with penalties in every mode."""

from typing import Any

import pytest
import pytorch_lightning as pl

from lossbalance.callbacks import statistics
from tests.accelerator.device import NAME, Device, pretend
from tests.accelerator.runs import PENALTIES, SAVED_AT, assert_same_run, evaluate, train
from tests.accelerator.schemes import SCHEMES

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:(The (probe of|penalty|loss of|weight of) )?'(aux|main|l2)':UserWarning"),
]
ACCELERATOR = {"accelerator": NAME, "strategy": NAME, "devices": 1}


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
    monkeypatch.setattr(statistics, "_AT_ONCE", 2)
    expected = train(scheme, penalty, tmp_path / "cpu")

    with pretend(float64) as device:
        waits = Waits(device)
        run = train(scheme, penalty, tmp_path / "device", callbacks=[waits], **ACCELERATOR)
        validated = evaluate(run, "validate")["val/loss/aux"]
        assert evaluate(run, "test")["test/loss/aux"] == validated > 0
        assert_same_run(run, expected)

    # Step 0 may wait, for it starts the scheme; after steps 3 and 7 the monitor logs, after step 5 the epoch ends.
    assert [waits.of_steps[step] for step in (1, 2, 4, 6)] == [{}] * 4


@pytest.mark.parametrize(("saved_on", "resumed_on"), [("cpu", NAME), (NAME, "cpu")])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_checkpoint_of_the_device_resumes_on_the_cpu_and_the_reverse(scheme, saved_on, resumed_on, tmp_path):
    options, path = {"cpu": {}, NAME: ACCELERATOR}, tmp_path / "whole" / f"step={SAVED_AT}.ckpt"
    with pretend(float64=False):
        whole = train(scheme, "share in gradient", tmp_path / "whole", enable_checkpointing=True, **options[saved_on])
        resumed = train(scheme, "share in gradient", tmp_path / "resumed", path, **options[resumed_on])

        whole.module.cpu(), whole.balancer.criterion.cpu()
        assert_same_run(resumed, whole)
