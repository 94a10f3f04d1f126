"""Searches for real: tiny runs, in a process of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import torch

from lossbalance.cli.search.pruning import Pruning

ROOT = Path(__file__).parents[3]
TINY = [f"trainer.{key}=1" for key in ("max_epochs", "limit_train_batches", "limit_val_batches", "log_every_n_steps")]


def search(folder, *arguments):
    """Starts a search as a person would; returns what came of it, and its folder."""
    command = [sys.executable, str(ROOT / "scripts" / "search.py"), *TINY, "test=false", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done, next(folder.glob("searches/*"), None)


@pytest.mark.processes
def test_a_failing_trial_is_recorded_and_the_same_command_goes_on(tmp_path):
    asked = ["loss=alpha", "alpha=range(0.5,2,1)", "seed=range(0,9)"]  # an alpha of 1.5 is refused
    for trials in (2, 4):
        done, folder = search(tmp_path, *asked, "--trials", str(trials))
    summaries = [json.loads((folder / str(number) / "summary.json").read_text()) for number in range(4)]
    failed = [number for number, summary in enumerate(summaries) if summary["status"] == "failed"]
    assert [f"Trial {number} failed: `alpha` must be" in done.stderr for number in range(4)] == [
        number in failed for number in range(4)
    ]
    assert f"{4 - len(failed)} completed, 0 pruned, {len(failed)} failed" in done.stdout
    assert done.returncode == (len(failed) == 4)
    assert not (folder / "4").exists()


@pytest.mark.processes
def test_a_trade_off_ends_in_the_best_trials_of_two_metrics_in_any_storage(tmp_path):
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    pair = ["val/aux/accuracy", "val/loss/main"]

    done, folder = search(tmp_path, "alpha=interval(0,1)", "--trials", "2", "--storage", storage, "--trade-off", *pair)

    assert done.returncode == 0, done.stderr
    study = optuna.load_study(study_name=folder.name, storage=storage)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    for trial in study.trials:
        metrics = json.loads((folder / str(trial.number) / "summary.json").read_text())["metrics"]
        assert trial.values == [metrics[name] for name in pair]


def test_a_trial_that_falls_behind_is_pruned(monkeypatch):
    monkeypatch.setattr(Pruning, "trial", None)  # as it was, after the test

    def objective(trial):
        Pruning.trial = trial
        for epoch in range(2):
            metrics = {"val/accuracy": torch.tensor(0.9 - 0.5 * trial.number)}
            trainer = SimpleNamespace(sanity_checking=False, current_epoch=epoch, callback_metrics=metrics)
            Pruning("val/accuracy").on_validation_end(trainer, None)
        return metrics["val/accuracy"].item()

    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(1, n_warmup_steps=1))
    study.optimize(objective, n_trials=2)

    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED"]
    assert list(study.trials[1].intermediate_values) == [0, 1]
