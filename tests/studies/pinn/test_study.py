"""The study of physics-informed networks."""

import pandas as pd
import pytest

from studies import pinn
from studies.common.study import report_study, train_study
from studies.pinn import study
from studies.pinn.study import Settings, train_cell
from studies.pinn.summary import conclude, summarize

TINY = Settings(seeds=1, steps=4, iterations=20, batch=8, measurements=2)


def test_it_ends_in_files_a_picture_and_a_sentence_and_is_resumed_where_it_stopped(tmp_path, monkeypatch):
    few = {name: study.METHODS[name] for name in ("fixed 1", "GradBalance", "PCGrad")}
    monkeypatch.setattr(study, "METHODS", few)
    sentence = report_study(pinn, TINY, tmp_path)

    assert "The best fixed weights (fixed 1) end at" in sentence
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    monkeypatch.setattr(pinn, "train_cell", None)  # nothing remains to be trained
    assert set(train_study(pinn, TINY, tmp_path)["method"]) == set(few)


@pytest.mark.parametrize("method", ["GradBalance", "Uncertainty"])
def test_a_training_is_the_same_when_it_is_run_again(method):
    first, second = (train_cell(TINY, method, 0).drop(columns="seconds") for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    assert list(first["phase"]) == ["adam", "adam", "lbfgs"]


def test_the_sentence_names_what_matches_the_sweep_and_what_stays_at_zero():
    rows = [
        {"method": method, "seed": seed, "phase": "adam", "step": 1, "error": error * factor}
        for method, error in {"fixed 1": 0.7, "fixed 100": 0.1, "GradBalance": 0.05, "Uncertainty": 1.0}.items()
        for seed, factor in enumerate((0.5, 2.0))
    ]
    results = pd.DataFrame(rows)
    errors = summarize(results)
    assert errors.loc["fixed 100", "adam"] == pytest.approx(0.1)  # a geometric mean
    said = conclude(results, errors)
    assert "(fixed 100) end at a relative error of 0.1, the plain sum at 0.7" in said
    assert "GradBalance (0.05) match or beat them" in said
    assert said.endswith("u = 0 or worse: Uncertainty (1).")


def test_a_number_out_of_range_is_refused():
    with pytest.raises(ValueError, match="`steps` must be a whole number, 1 or more, got 0"):
        Settings(steps=0)
