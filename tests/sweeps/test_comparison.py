import itertools
import math

import numpy as np
import pytest
from scipy import stats

from lossbalance.sweeps.comparison import Comparison, lower_is_better
from lossbalance.sweeps.runs import read_runs
from tests.sweeps.synthetic import write_run


def test_a_setting_has_the_mean_and_spread_of_its_runs(compare):
    row = compare({0.1: [0.1, 0.2, 0.3], 0.5: [0.5]}).settings.loc["alpha=0.1"]

    assert row[["n", "mean", "sd", "se"]].tolist() == pytest.approx([3, 0.2, 0.1, 0.1 / math.sqrt(3)])
    expected = stats.t.interval(0.95, 2, 0.2, 0.1 / math.sqrt(3))
    assert (row["low"], row["high"]) == pytest.approx(expected)


def test_differences_are_those_of_a_paired_t_test(compare):
    scores = {0.3: [0.91, 0.93, 0.92, 0.97], 0.5: [0.90, 0.88, 0.91, 0.90]}

    pair = compare(scores).differences("alpha=0.5").loc["alpha=0.3"]

    expected = stats.ttest_rel(scores[0.3], scores[0.5]).confidence_interval(0.95)
    assert pair[["low", "high"]].tolist() == pytest.approx(list(expected))
    assert pair["pairs"] == 4


def test_only_runs_that_share_seed_and_fold_are_pairs(compare):
    assert compare({0.3: [0.9, 0.8, 0.7], 0.5: [0.5]}).differences("alpha=0.5").loc["alpha=0.3", "pairs"] == 1


def test_over_folds_the_interval_is_widened_for_the_data_they_share(tmp_path):
    folds, scores = 5, {0.3: [0.91, 0.93, 0.92, 0.97, 0.9], 0.5: [0.9, 0.88, 0.91, 0.9, 0.9]}
    for job, (alpha, fold) in enumerate(itertools.product(scores, range(folds))):
        write_run(tmp_path / str(job), scores[alpha][fold], fold=fold, folds=folds, choices={"alpha": alpha})

    pair = Comparison(read_runs([tmp_path]), "val/main/accuracy", False).differences("alpha=0.5").loc["alpha=0.3"]

    gaps = np.subtract(scores[0.3], scores[0.5])
    half = stats.t.ppf(0.975, folds - 1) * gaps.std(ddof=1) * math.sqrt(1 / folds + 1 / (folds - 1))
    assert pair["high"] - pair["difference"] == pytest.approx(half)


def test_the_one_standard_error_choice_is_the_smallest_alpha_as_good_as_the_best(compare):
    comparison = compare({0.1: [0.80, 0.82], 0.2: [0.89, 0.90], 0.4: [0.88, 0.92], 0.8: [0.90, 0.88]})
    assert (comparison.best, comparison.one_standard_error) == ("alpha=0.4", "alpha=0.2")


def test_the_one_standard_error_choice_measures_the_penalty_as_the_best_does(tmp_path):
    scores = {("sum", 0.01): 0.9, ("sum", 0.1): 0.89, ("sum", 1): 0.1, ("mean", 1): 0.89}
    for job, ((scale, strength), seed) in enumerate(itertools.product(scores, range(2))):
        choices = {"penalty.normalization": scale, "penalty.strength": strength}
        write_run(tmp_path / str(job), scores[scale, strength] + 0.02 * seed, seed, choices=choices)
    comparison = Comparison(read_runs([tmp_path]), "val/main/accuracy", False)
    assert comparison.runs.choices.loc[2, "penalty.strength"] == 0.1
    assert comparison.one_standard_error == comparison.runs.info.loc[2, "setting"]


def test_equal_weighting_is_the_scheme_or_else_the_alpha_that_weighs_alike(tmp_path, compare):
    assert compare({0.3: [0.9], 0.5: [0.8]}).baseline == "alpha=0.5"
    write_run(tmp_path / "equal", 0.1, choices={"loss": "equal"})
    assert Comparison(read_runs([tmp_path]), "val/main/accuracy", False).baseline == "loss=equal"


def test_schemes_with_penalties_are_compared_with_equal_weighting_without_penalty(compare_penalties):
    comparison = compare_penalties({0: 0.8, 0.01: 0.9}, ["equal", "gradnorm"])
    assert comparison.baseline == "loss=equal penalty=none"
    assert comparison.baseline_name == "equal weighting and training without penalty"


def test_one_lucky_run_is_not_the_best_setting(compare):
    assert compare({0.1: [0.99], 0.2: [0.9, 0.9]}).best == "alpha=0.2"


def test_a_setting_that_diverged_once_is_not_the_best(compare):
    assert compare({0.1: [0.99, 0.99, math.nan], 0.2: [0.9, 0.9, 0.9]}).best == "alpha=0.2"


def test_metrics_are_told_apart_by_name():
    assert lower_is_better("val/loss/main")
    assert not lower_is_better("val/main/accuracy")
