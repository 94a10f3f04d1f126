"""All loggers at once, in one run."""

import sqlite3
from importlib.util import find_spec

import pytest
import yaml

from tests.cli.program import train

LOGGERS = [name for name in ("tensorboard", "wandb", "mlflow") if find_spec(name)]


def test_every_logger_gets_the_settings_and_a_profiler_prints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if not LOGGERS:
        pytest.skip("no logger of an extra is installed")
    words = ["logger.wandb.offline=true"] if "wandb" in LOGGERS else []
    done = train(f"logger=[csv,{','.join(LOGGERS)}]", *words, "debug=profile", "trainer.max_epochs=1", "seed=7")

    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("outputs/*/*")
    assert f"Written to {folder.relative_to(tmp_path)}" in done.stdout
    assert "run_training_epoch" in done.stdout  # what the profiler measured
    assert yaml.safe_load((folder / "hparams.yaml").read_text())["seed"] == 7
    if "tensorboard" in LOGGERS:
        assert yaml.safe_load((folder / "tensorboard" / "hparams.yaml").read_text())["seed"] == 7
    if "wandb" in LOGGERS:
        (run,) = folder.glob("wandb/offline-run-*/run-*.wandb")
        written = run.read_bytes()
        assert b"val/accuracy" in written
        assert b"optimizer.weight_decay" in written
        assert list(folder.glob("wandb/offline-run-*/files/media/images/losses*.png"))
    if "mlflow" in LOGGERS:
        with sqlite3.connect(tmp_path / "mlflow.db") as database:
            assert database.execute("SELECT value FROM params WHERE key = 'seed'").fetchone() == ("7",)
            assert database.execute("SELECT COUNT(*) FROM metrics WHERE key = 'val/accuracy'").fetchone()[0] > 0
        assert list(tmp_path.rglob("artifacts/losses.png"))
