"""What a run leaves, also when it is cut short, fails, or goes on."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.cli.program import command, surroundings, train


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """The folder of a run of four epochs."""
    folder = tmp_path_factory.mktemp("straight")
    done = train("loss=gradbalance", "trainer.max_epochs=4", f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    assert "leaked" not in done.stderr  # by an extension, when the program ends
    (folder / "printed.txt").write_text(done.stdout)
    return folder


def test_a_run_leaves_its_configuration_numbers_checkpoints_and_picture(straight):
    for name in ("config.yaml", "metrics.csv", "summary.json", "losses.png"):
        assert (straight / name).stat().st_size > 0
    for name in ("last.ckpt", "best.ckpt"):
        assert torch.load(straight / "checkpoints" / name, weights_only=True)["state_dict"]
    assert "${" not in (straight / "config.yaml").read_text()


def test_the_summary_says_what_was_trained_and_what_came_of_it(straight):
    found = summary(straight)
    assert found["status"] == "completed"
    assert (found["task"], found["loss"], found["seed"]) == ("two_digits", "gradbalance", 0)
    assert found["overrides"] == ["loss=gradbalance", "trainer.max_epochs=4"]
    assert found["terms"] == ["aux", "main"]
    for stage in ("val", "test"):
        for name in ("loss/aux", "loss/main", "aux/accuracy", "main/accuracy"):
            assert isinstance(found["metrics"][f"{stage}/{name}"], float)
    assert all(weight > 0 for weight in found["weights"].values())
    assert sum(found["gradient_shares"].values()) == pytest.approx(1)
    assert found["objective"]["value"] == found["metrics"][found["objective"]["name"]]
    assert found["seconds"] > 0


def test_the_numbers_of_every_epoch_are_in_the_table(straight):
    table = pd.read_csv(straight / "metrics.csv")
    for name in ("loss/aux", "weight/main", "contribution/aux", "gradient_share/main", "val/loss/aux"):
        assert table[name].notna().sum() >= 4


def test_the_run_ends_with_what_each_term_weighed(straight):
    printed = (straight / "printed.txt").read_text()
    for word in ("term", "loss", "weight", "contribution", "share of value", "share of gradient", "main/accuracy"):
        assert word in printed


def test_a_run_that_goes_on_ends_as_one_that_never_stopped(straight, tmp_path):
    words = ["loss=gradbalance", f"hydra.run.dir={tmp_path}"]
    assert train(*words, "trainer.max_epochs=2").returncode == 0
    done = train(*words, "trainer.max_epochs=4", f"ckpt_path={tmp_path / 'checkpoints' / 'last.ckpt'}")
    assert done.returncode == 0, done.stderr

    ours, theirs = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (tmp_path, straight)
    )
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)
    assert summary(tmp_path)["metrics"] == summary(straight)["metrics"]
    assert summary(tmp_path)["weights"] == summary(straight)["weights"]
    tables = [pd.read_csv(folder / "metrics.csv") for folder in (tmp_path, straight)]
    for name in ("loss/aux", "val/loss/aux", "test/accuracy"):  # the table goes on too
        assert tables[0][name].dropna().tolist() == tables[1][name].dropna().tolist()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ckpt_path={folder}/checkpoints/lats.ckpt"], "`ckpt_path` must be a checkpoint, got "),
        ([], "must be without a finished run, got "),
        (["ckpt_path={folder}/checkpoints/last.ckpt", "folds=100000"], "`folds` must be"),
    ],
)
def test_what_is_refused_in_the_folder_of_a_finished_run_touches_no_file_of_it(straight, words, message):
    before = contents(straight)
    words = [word.format(folder=straight) for word in words]
    done = train("loss=gradbalance", "trainer.max_epochs=4", f"hydra.run.dir={straight}", *words)
    assert done.returncode == 1
    assert message in done.stderr
    assert contents(straight) == before


@pytest.mark.processes
def test_of_two_processes_one_writes_and_shows(tmp_path):
    done = train("trainer=ddp", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("The last epoch of training") == done.stdout.count("The test") == 1
    assert summary(tmp_path)["status"] == "completed"


def test_ctrl_c_leaves_a_checkpoint_and_says_so(tmp_path):
    program = subprocess.Popen(
        command("trainer.max_epochs=100000", f"hydra.run.dir={tmp_path}"),
        env=surroundings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    table, deadline = tmp_path / "metrics.csv", time.monotonic() + 120
    while not (table.exists() and table.read_text().count("\n") > 2):
        assert time.monotonic() < deadline
        assert program.poll() is None
        time.sleep(0.2)
    program.send_signal(signal.SIGINT)
    said, errors = program.communicate(timeout=60)

    assert program.returncode == 130
    assert "Traceback" not in errors
    resume = f"hydra.run.dir={tmp_path} ckpt_path={tmp_path}/checkpoints/last.ckpt"
    assert f"To resume, add to the same command: {resume}" in said
    assert summary(tmp_path)["status"] == "interrupted"
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


def test_a_run_that_fails_says_why(tmp_path):
    done = train("loss=alpha", "alpha=1.5", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 1
    assert summary(tmp_path)["status"] == "failed"
    assert "`alpha` must be a number in [0, 1]" in summary(tmp_path)["message"]
