"""The study of limits."""

import sys

import pandas as pd
import pytest

from studies import limits
from studies.common.study import report_study, train_study
from studies.limits import study
from studies.limits.study import ALPHA, BALANCED, LIMIT, PLAIN, Settings, conclude, summarize, train_cell

TINY = Settings(limits=(2000.0, 1500.0), alphas=(1e-3,), seeds=1, epochs=1)


def row(method, setting, seed, accuracy, reconstruction):
    """A training that reached in training what it reaches in the test."""
    return {
        "method": method,
        "setting": setting,
        "seed": seed,
        "accuracy": accuracy,
        "r2": 0.5,
        "reconstruction": reconstruction,
        "training": reconstruction,
        "weight": 0.1,
    }


def test_it_ends_in_files_a_picture_and_a_sentence_and_is_resumed_where_it_stopped(tmp_path, monkeypatch):
    overrides_seen = []

    def train(overrides):
        overrides_seen.append(overrides)
        loss = 1000.0 + len(overrides_seen)
        metrics = {"test/main/accuracy": 1 / len(overrides_seen), "test/aux/r2": 0.4, "test/loss/aux": loss}
        return {"metrics": metrics, "last_epoch": {"aux": {"loss": loss}}, "weights": {"aux": 0.1}}

    monkeypatch.setattr(study, "train", train)
    sentence = report_study(limits, TINY, tmp_path)

    assert sentence == "In both accuracy and loss, an alpha beats 0 of 2 limits, and a limit 1 of 1 alphas."
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    assert "loss.limits.aux=1500.0" in overrides_seen[1]
    assert {"loss=alpha", "alpha=0.001"} < set(overrides_seen[2])
    monkeypatch.setattr(study, "train", None)  # nothing remains to be trained
    assert set(train_study(limits, TINY, tmp_path)["method"]) == {LIMIT, ALPHA, PLAIN, BALANCED}


def test_a_training_is_a_run_of_the_command_line(monkeypatch):
    module = sys.modules["lossbalance.cli.runs.run"]
    monkeypatch.setattr(module, "_can_be_isolated", lambda _: False)  # no fork where autograd has threads
    (trained,) = train_cell(TINY, PLAIN, 0.0, seed=1).to_dict("records")
    assert trained["weight"] == 1
    assert 0 < trained["accuracy"] < 1
    assert trained["reconstruction"] == pytest.approx(trained["training"], rel=0.9)


def test_the_sentence_counts_the_limits_that_no_alpha_beats_and_names_those_out_of_reach():
    rows = [
        row(LIMIT, 1000.0, 0, 0.9, 1000.0),
        row(LIMIT, 1000.0, 1, 0.7, 1020.0),
        row(LIMIT, 500.0, 0, 0.6, 800.0),
        row(ALPHA, 0.1, 0, 0.7, 790.0),
    ]
    results = pd.DataFrame(rows)
    summary = summarize(results)
    assert summary.loc[(LIMIT, 1000.0), "accuracy"] == pytest.approx(0.8)
    assert summary.loc[(LIMIT, 1000.0), "reconstruction_sd"] == pytest.approx(200**0.5)
    said = conclude(results, summary)
    assert said.startswith("In both accuracy and loss, an alpha beats 1 of 2 limits, and a limit 0 of 1 alphas;")
    assert said.endswith("out of reach in this time: 500 (reached 800).")


def test_a_number_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"`limits` must be a positive, finite number, got 0.0"):
        Settings(limits=(0.0,))
