import random
import time
import warnings
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from tests.callbacks.modules import SCHEMES, Drawn, assert_same_state, balance, batches, make_trainer
from tests.helpers.forkserver import forkserver

STEPS = 30


@pytest.mark.processes
def test_a_process_killed_at_random_and_resumed_ends_as_one_that_never_died(tmp_path):
    moments = random.Random(0)
    for name in SCHEMES:
        train(name, tmp_path / name / "whole")
        kills = 0
        while not (tmp_path / name / "killed" / "end.pt").exists():
            kills += train_for_a_while(
                name, tmp_path / name / "killed", moments.uniform(0.0, 0.4) if kills < 3 else None
            )

        whole, killed = (torch.load(tmp_path / name / run / "end.pt") for run in ("whole", "killed"))
        assert kills > 0
        assert_same_state(killed, whole)


def train_for_a_while(name: str, folder: Path, seconds: float | None) -> bool:
    """Trains in a process of its own, and kills it some time after its first step, if told to; whether it did."""
    process = forkserver().Process(target=train, args=(name, folder))
    process.start()
    if seconds is not None:
        while process.is_alive() and not (folder / "last.ckpt").exists():
            time.sleep(0.005)
        process.join(seconds)
        process.kill()
    process.join()
    return process.exitcode == -9


class Slow(pl.Callback):
    """Leaves time to be killed."""

    def on_train_batch_end(self, *_):
        time.sleep(0.01)


def train(name: str, folder: Path) -> None:
    """Trains from the last checkpoint, if there is one, and leaves the end in a file."""
    warnings.simplefilter("ignore")
    module, balancer, last = Drawn(lacks=[5], breaks=[9]), balance(name), folder / "last.ckpt"
    saving = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_last=True)
    trainer = make_trainer([balancer, saving, Slow()], folder, max_steps=STEPS, enable_checkpointing=True)
    trainer.fit(module, batches(STEPS, 1), ckpt_path=last if last.exists() else None)
    torch.save([module.state_dict(), balancer.state_dict()], folder / "end.pt")
