"""A run that is killed at any moment goes on to what it would have come to."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from tests.cli.program import train_here
from tests.helpers.forkserver import forkserver

WORDS = [
    "loss=uncertainty",  # the weights of its last step are not those of the next
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=3",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "trainer.log_every_n_steps=2",
]


def start(folder: Path, *words: str, dies: tuple[str, int] = ("", 0), after: bool = False) -> tuple[int | None, list]:
    """Trains in another process, which is killed when a file of this name is moved into place for the n-th time."""
    context = forkserver()
    queue = context.SimpleQueue()
    process = context.Process(target=_train, args=(folder, [*WORDS, *words], dies, after, queue))
    process.start()
    process.join(timeout=60)
    return process.exitcode, queue.get() if process.exitcode == 0 else []


def _train(folder, words, dies, after, queue):
    moved, replace = [], os.replace

    def move(source, target):
        moved.append(Path(target).name)
        due = dies == (moved[-1], moved.count(moved[-1]))
        if due and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = move
    train_here(*words, folder=folder)
    queue.put(moved)


def left_by(folder: Path) -> tuple:
    """Returns what must not depend on where a run stopped."""
    record = json.loads((folder / "summary.json").read_text())
    seconds = record.pop("seconds")
    assert seconds > 0
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    weights = {name: value.numpy().tobytes() for name, value in checkpoint["state_dict"].items()}
    return json.dumps(record), (folder / "metrics.csv").read_bytes(), weights, (folder / "losses.png").read_bytes()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """What a run leaves that nobody stops, and the files that it moved into place."""
    folder = tmp_path_factory.mktemp("straight")
    code, moved = start(folder)
    assert code == 0
    return left_by(folder), moved


def go_on(folder):
    last = folder / "checkpoints" / "last.ckpt"
    code, _ = start(folder, *([f"ckpt_path='{last}'"] if last.exists() else []))
    assert code == 0


@pytest.mark.parametrize("name", ["config.yaml", "last.ckpt", "best.ckpt", "metrics.csv", "summary.json"])
def test_whenever_a_file_is_moved_into_place_the_run_may_be_killed(straight, tmp_path, name):
    left, moved = straight
    assert name in moved
    for number in range(1, moved.count(name) + 1):
        folder = tmp_path / str(number)
        code, _ = start(folder, dies=(name, number))
        assert code == -signal.SIGKILL
        go_on(folder)
        assert left_by(folder) == left


def test_a_run_that_is_killed_after_its_record_has_nothing_left_to_do(straight, tmp_path):
    assert start(tmp_path, dies=("summary.json", 1), after=True)[0] == -signal.SIGKILL
    assert left_by(tmp_path) == straight[0]
    go_on(tmp_path)
    assert left_by(tmp_path) == straight[0]
