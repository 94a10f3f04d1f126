import csv
import io
import shutil
from pathlib import Path

import pytest
import pytorch_lightning as pl
from rich.console import Console

from benchmarks import loop
from benchmarks.loop import benchmark_loop

CONF = Path(__file__).parents[2] / "conf"


def test_both_loops_train_the_same_network_to_the_same_accuracy(tmp_path, monkeypatch):
    metrics, fit = {}, pl.Trainer.fit
    plainly = loop._train_plainly

    def keep_metrics(trainer, *arguments):
        fit(trainer, *arguments)
        metrics.update(trainer.callback_metrics)

    def keep_table(config):
        plainly(config)
        shutil.copy(Path(config.output_dir) / "plain.csv", tmp_path)

    monkeypatch.setattr(pl.Trainer, "fit", keep_metrics)
    monkeypatch.setattr(loop, "_train_plainly", keep_table)
    out = io.StringIO()

    times = benchmark_loop(CONF, epochs=3, rounds=1, console=Console(file=out, width=200))

    assert f"takes {times:.2f} times as long" in out.getvalue()
    *_, last = csv.reader((tmp_path / "plain.csv").read_text().splitlines())
    names = ("loss/aux", "loss/main", "aux/accuracy", "main/accuracy", "accuracy")
    ours = [metrics[f"val/{name}"].item() for name in names]
    assert ours == pytest.approx([float(value) for value in last[2:]], rel=1e-3)
