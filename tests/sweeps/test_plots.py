"""Pictures hold every point that they speak of, whatever the runs are."""

import csv
import itertools
import math

import numpy as np
import pytest

from lossbalance.sweeps.comparison import Comparison
from lossbalance.sweeps.courses import choose_settings, draw_courses, read_courses
from lossbalance.sweeps.plots import draw_curve, draw_differences, draw_trade_off
from lossbalance.sweeps.runs import read_runs
from lossbalance.sweeps.trade_off import trade_off
from tests.sweeps.synthetic import write_alpha_sweep, write_run

SCORES = {alpha / 10: [0.9 - (alpha / 10 - 0.3) ** 2 + 0.01 * seed for seed in range(3)] for alpha in range(11)}
FAR_OFF = SCORES | {0.95: [-40.0, -41.0, -42.0], 0.05: [30.0, 30.1, 30.2]}
ONE_EACH = {0.1: [0.5], 0.5: [0.6], 0.9: [0.7]}
ALL_EQUAL = {0.1: [0.5, 0.5], 0.5: [0.5, 0.5], 0.9: [0.5, 0.5]}
LOSSES = {alpha: [10.0**alpha, 1.1 * 10.0**alpha] for alpha in (0.0, 1, 2, 3, 4, 5, 6)}


@pytest.fixture(params=[SCORES, FAR_OFF, ONE_EACH, ALL_EQUAL, LOSSES], ids=["bow", "far off", "one", "equal", "losses"])
def comparison(request, tmp_path):
    return Comparison(read_runs([write_alpha_sweep(tmp_path, request.param)]), "val/main/accuracy", False)


def inside(axes, x, y):
    """Whether all the points lie in the panel, in pixels."""
    axes.figure.draw_without_rendering()
    spots = axes.transData.transform(np.column_stack([x, y]))
    low, high = axes.bbox.get_points()
    return np.isfinite(spots).all() and (spots >= low - 1).all() and (spots <= high + 1).all()


def test_the_trade_off_holds_all_points_the_front_and_the_baseline(comparison):
    curve = trade_off(comparison.runs, "val/aux/accuracy", "val/main/accuracy", (False, False))
    (axes,) = draw_trade_off(curve, comparison).axes
    assert inside(axes, curve.points["x"], curve.points["y"])
    for line in axes.lines:
        if line.get_transform() == axes.transData:
            assert inside(axes, line.get_xdata().astype(float), line.get_ydata().astype(float))


def test_the_points_of_the_curve_are_labelled_with_their_numbers(comparison):
    curve = trade_off(comparison.runs, "val/aux/accuracy", "val/main/accuracy", (False, False))
    (axes,) = draw_trade_off(curve, comparison).axes
    written = {text.get_text() for text in axes.texts}
    ends = [f"{end:g}" for end in (comparison.settings["alpha"].min(), comparison.settings["alpha"].max())]
    assert written >= {*ends, comparison.best.removeprefix("alpha=")}


def test_schemes_are_labelled_by_name(tmp_path):
    for job, (loss, seed) in enumerate(itertools.product(("equal", "gradnorm", "dwa"), range(2))):
        write_run(tmp_path / str(job), 0.1 * job, seed, choices={"loss": loss})
    comparison = Comparison(read_runs([tmp_path]), "val/main/accuracy", False)
    curve = trade_off(comparison.runs, "val/aux/accuracy", "val/main/accuracy", (False, False))
    (axes,) = draw_trade_off(curve, comparison).axes
    assert {text.get_text() for text in axes.texts} == {"equal", "gradnorm", "dwa"}


def test_the_curve_holds_every_mean(comparison):
    (axes,) = draw_curve(comparison).axes
    ran = comparison.settings[comparison.settings["n"] > 0]
    assert inside(axes, ran["alpha"].astype(float), ran["mean"])


def test_the_differences_hold_every_setting(comparison):
    if comparison.baseline is None:
        return
    differences = comparison.differences(comparison.baseline).drop(index=comparison.baseline)
    (axes,) = draw_differences(comparison, comparison.baseline).axes
    low, high = axes.get_xlim()
    assert ((differences["difference"] >= low) & (differences["difference"] <= high)).all()


@pytest.fixture
def courses(tmp_path):
    """Two settings, two seeds each, three epochs, with the tables that runs leave."""
    for alpha, seed in itertools.product((0.1, 0.5), range(2)):
        folder = write_run(tmp_path / f"{alpha}_{seed}", alpha, seed, choices={"alpha": alpha})
        with (folder / "metrics.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, ["epoch", "loss/aux", "loss/aux_step", "weight/aux", "val/loss/aux"])
            table.writeheader()
            for epoch in range(3):
                table.writerow({"epoch": epoch, "loss/aux_step": 9.0})
                table.writerow({"epoch": epoch, "loss/aux": alpha + seed + epoch, "weight/aux": alpha})
                table.writerow({"epoch": epoch, "val/loss/aux": 1.0})
    (folder / "metrics.csv").write_text("epoch,loss/aux\n0,nan\n1,")  # half of a table
    return Comparison(read_runs([tmp_path]), "val/main/accuracy", False)


def test_courses_are_means_over_seeds_with_a_band_from_the_lowest_to_the_highest(courses):
    found = read_courses(courses.runs, choose_settings(courses)).set_index(["setting", "quantity", "term", "epoch"])
    first = found.loc[("alpha=0.1", "loss", "aux", 2)]
    assert first.tolist() == pytest.approx([2.6, 2.1, 3.1])
    assert found.loc[("alpha=0.5", "weight", "aux", 0)].tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert set(found.index.get_level_values("quantity")) == {"loss", "weight"}


def test_a_course_has_a_panel_for_each_term_and_a_line_for_each_setting(courses):
    settings = choose_settings(courses)
    figure = draw_courses(read_courses(courses.runs, settings), "loss", settings)
    (panel,) = figure.axes
    assert panel.get_title(loc="left") == "aux"
    assert [line.get_label() for line in panel.lines] == ["alpha=0.5", "alpha=0.1"]
    assert panel.lines[1].get_ydata().tolist() == pytest.approx([0.6, 1.6, 2.6])
    assert not math.isnan(panel.get_ylim()[0])


def test_runs_that_left_no_table_have_no_course(tmp_path):
    runs = read_runs([write_alpha_sweep(tmp_path, ONE_EACH)])
    assert read_courses(runs, ["alpha=0.1"]).empty
