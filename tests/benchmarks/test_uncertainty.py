import io
import math

import pandas as pd
import torch
from rich.console import Console

from benchmarks.uncertainty import benchmark_uncertainty, read_bikes, read_diabetes


def test_the_scales_of_the_diabetes_targets_differ_by_a_hundred():
    small, large = sorted(read_diabetes().targets.std(dim=0).tolist())
    assert large / small > 100


def test_in_as_many_steps_auto_ends_below_a_start_at_zero():
    out = io.StringIO()
    errors = benchmark_uncertainty(seeds=range(2), steps=300, console=Console(file=out, width=100))["diabetes"]
    assert errors["Uncertainty, auto"].mean() < errors["Uncertainty, s = 0"].mean()
    assert f"{errors['Uncertainty, auto'].mean():.3f} ±" in out.getvalue()


def test_bikes_are_read_by_hour_with_words_one_hot(tmp_path):
    words = ["season", "yr", "mnth", "hr", "holiday", "weekday", "workingday", "weathersit"]
    table = pd.DataFrame({word: [0, 1, 0, 1] for word in words})
    table = table.assign(temp=[0.1, 0.2, 0.3, 0.4], atemp=[1, 2, 3, 4], hum=[4, 3, 2, 1], windspeed=[1, 0, 1, 0])
    table.assign(casual=[1, 2, 3, 6], registered=[10, 20, 30, 40]).to_csv(tmp_path / "hour.csv")

    data = read_bikes(tmp_path / "hour.csv")

    assert data.features.shape == (4, 2 * len(words) + 4)
    torch.testing.assert_close(data.targets, torch.tensor([[-2.0, -15.0], [-1.0, -5.0], [0.0, 5.0], [3.0, 15.0]]))
    assert math.isclose(data.features.std(dim=0).mean().item(), 1.0, rel_tol=1e-5)
