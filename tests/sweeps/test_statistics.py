import itertools
import math
import re

import numpy as np
import pytest
from scipy import stats

from lossbalance.sweeps.runs import read_runs
from lossbalance.sweeps.statistics import (
    Comparison,
    default_trade_off,
    hypervolume,
    lower_is_better,
    pareto_front,
    quantity,
    trade_off,
    verdict,
)
from lossbalance.sweeps.verdict import pairs_needed
from tests.sweeps.synthetic import write_alpha_sweep, write_run


@pytest.fixture
def compare(tmp_path):
    def compare(scores, metric="val/main/accuracy", lower=False):
        return Comparison(read_runs([write_alpha_sweep(tmp_path, scores)]), metric, lower)

    return compare


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


@pytest.fixture
def compare_penalties(tmp_path):
    """Compares an L2 penalty of two strengths with no penalty, under the schemes that are named."""

    def compare(scores, schemes=("equal",)):
        runs = itertools.product(schemes, scores.items(), range(3))
        for job, (loss, (strength, mean), seed) in enumerate(runs):
            penalty = {"penalty": "l2", "penalty.strength": strength} if strength else {"penalty": "none"}
            write_run(tmp_path / str(job), mean + 0.01 * (seed - 1), seed, choices={"loss": loss} | penalty)
        return Comparison(read_runs([tmp_path]), "val/main/accuracy", False)

    return compare


def test_penalties_are_compared_with_no_penalty(compare_penalties):
    comparison = compare_penalties({0: 0.8, 0.01: 0.9, 1: 0.1})
    assert comparison.baseline == "penalty=none"
    assert "better than training without penalty by 0.1 " in verdict(comparison)


def test_a_penalty_that_does_not_help_is_not_advised(compare_penalties):
    said = verdict(compare_penalties({0: 0.9, 0.01: 0.8, 1: 0.1}))
    assert said.startswith("Keep training without penalty: `penalty=none` has the highest")


def test_strengths_alone_are_compared_with_none_of_them(compare_penalties):
    comparison = compare_penalties({0.001: 0.7, 0.01: 0.9, 1: 0.1})
    assert comparison.baseline is None
    assert verdict(comparison).startswith("Use `penalty.strength=0.01`")


def test_schemes_with_penalties_are_compared_with_equal_weighting_without_penalty(compare_penalties):
    comparison = compare_penalties({0: 0.8, 0.01: 0.9}, ["equal", "gradnorm"])
    assert comparison.baseline == "loss=equal penalty=none"
    assert comparison.baseline_name == "equal weighting and training without penalty"


def test_one_lucky_run_is_not_the_best_setting(compare):
    assert compare({0.1: [0.99], 0.2: [0.9, 0.9]}).best == "alpha=0.2"


def test_a_setting_that_diverged_once_is_not_the_best(compare):
    assert compare({0.1: [0.99, 0.99, math.nan], 0.2: [0.9, 0.9, 0.9]}).best == "alpha=0.2"


def test_the_front_holds_what_nothing_dominates():
    goods = np.array([[0, 3], [1, 2], [1, 1], [2, 2], [3, 0], [3, 0], [3, -1]])
    assert pareto_front(goods).tolist() == [True, False, False, True, True, True, False]


def test_the_front_is_that_of_all_pairs():
    goods = np.random.default_rng(0).integers(0, 8, (60, 2))
    dominated = [any((other >= good).all() and (other > good).any() for other in goods) for good in goods]
    assert pareto_front(goods).tolist() == (~np.array(dominated)).tolist()


def test_the_hypervolume_is_the_dominated_part_of_the_box():
    assert hypervolume(np.array([[0.0, 4.0], [1.0, 2.0], [2.0, 0.0]])) == pytest.approx(0.25)  # the corner (1, 2) alone
    assert hypervolume(np.array([[0.0, 0.0], [2.0, 4.0]])) == 1.0
    assert math.isnan(hypervolume(np.array([[1.0, 0.0], [1.0, 4.0]])))


def test_a_trade_off_turns_metrics_that_are_to_be_small(compare):
    runs = compare({0.1: [0.2], 0.5: [0.5], 0.9: [0.8]}).runs

    curve = trade_off(runs, "val/aux/accuracy", "val/loss/main", (False, True))

    assert curve.points["front"].tolist() == [True, True, True]
    assert curve.points.loc["alpha=0.1", ["x", "y"]].tolist() == pytest.approx([0.8, 1.8])


def test_the_default_trade_off_is_between_the_scores_of_the_first_two_terms(compare):
    assert default_trade_off(compare({0.1: [0.2]}).runs) == ("val/aux/accuracy", "val/main/accuracy")


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        ({0.1: [0.9], 0.5: [0.8]}, "`alpha=0.1` has the highest .* one run each cannot tell it from chance"),
        (
            {0.1: [0.5, 0.9, 0.6], 0.5: [0.6, 0.7, 0.6]},
            "Too few runs to say: `alpha=0.1` looks better, .* may be chance; about 164 more seeds would tell",
        ),
        (
            {0.1: [0.91, 0.90, 0.92], 0.5: [0.79, 0.80, 0.81]},
            "Use `alpha=0.1`: .* better than equal weighting by 0.11 ",
        ),
        ({0.1: [0.71, 0.70, 0.72], 0.5: [0.79, 0.80, 0.81]}, "Keep equal weighting: `alpha=0.5` has the highest"),
        ({0.1: [0.71, 0.70, 0.72], 0.2: [0.90, 0.91, 0.90]}, "Use `alpha=0.2`: .*; no other setting is within noise"),
        (
            {0.1: [0.71, 0.70, 0.72], 0.2: [0.70, 0.71, 0.73]},
            "The differences are within noise: `alpha=0.2` .* about 72 more seeds would tell",
        ),
        (
            {0.1: [0.8001, 0.8002, 0.8002], 0.5: [0.8, 0.8001, 0.8]},
            "No difference worth having: `alpha=0.1` .* is inside the margin of 0.008: either will do",
        ),
        (
            {0.1: [0.8001, 0.8002, 0.8002], 0.2: [0.8, 0.8001, 0.8]},
            "No difference worth having: `alpha=0.1` .*, but `alpha=0.2` is within 0.008 of it",
        ),
        ({0.1: [0.833, 0.6], 0.5: [0.581, 0.5]}, "Too few runs to say: `alpha=0.1` looks better, .* more seeds would"),
        ({0.1: [0.99], 0.2: [0.9, 0.91]}, "; `alpha=0.1` looks better still, but has run once: repeat it"),
        ({0.1: [0.7, 0.7]}, "Only one setting came to its end: `loss=alpha`, .* over 2 runs"),
        ({0.1: [math.nan]}, "No run came to its end with a finite val/main/accuracy"),
    ],
)
def test_the_verdict_is_one_sentence_that_says_how_sure_it_is(compare, scores, sentence):
    said = verdict(compare(scores))
    assert said.count(". ") == 0
    assert re.search(sentence, said), said


def test_the_best_of_many_needs_a_clearer_lead(compare):
    noise = [[0.50, 0.52, 0.51], [0.49, 0.52, 0.50], [0.51, 0.50, 0.52]]
    others = {0.6 + i / 100: row for i, row in enumerate(noise * 6)}
    said = verdict(compare({0.1: [0.53, 0.56, 0.57], 0.5: [0.50, 0.52, 0.51]} | others))
    assert said.startswith("`alpha=0.1` is probably best")
    assert "confirm it with more seeds" in said


@pytest.mark.parametrize(
    ("mean", "sd", "text"),
    [(0.91234, 0.0123, "0.912 ± 0.012"), (1234.5, 67.0, "1234 ± 67"), (0.5, 0.0, "0.5"), (0.25, math.nan, "0.25")],
)
def test_a_quantity_has_the_digits_that_its_spread_warrants(mean, sd, text):
    assert quantity(mean, sd) == text


def test_metrics_are_told_apart_by_name():
    assert lower_is_better("val/loss/main")
    assert not lower_is_better("val/main/accuracy")


def test_a_margin_decides_what_is_worth_having(compare):
    comparison = compare({0.1: [0.81, 0.82, 0.82], 0.5: [0.8, 0.81, 0.8]})
    assert verdict(comparison, margin=0.001).startswith("Too few runs to say")
    assert verdict(comparison, margin=0.1).startswith("No difference worth having")


def test_what_looks_better_is_never_advised_against(compare):
    for spread in (0.0001, 0.01, 0.1):
        said = verdict(compare({0.1: [0.83 + spread, 0.83 - spread], 0.5: [0.58 - spread, 0.58 + spread]}))
        assert "Keep" not in said
        assert "will do" not in said


def test_as_many_pairs_as_are_advised_find_the_difference_four_times_in_five():
    generator, difference, sd = np.random.default_rng(0), 0.05, 0.08
    n = pairs_needed(difference, sd, margin=0.01)
    found = stats.ttest_1samp(generator.normal(difference, sd, (4000, n)), 0, axis=1).pvalue < 0.05
    assert 0.78 < found.mean() < 0.86


def test_a_difference_inside_the_margin_needs_as_many_pairs_as_put_its_interval_there():
    assert pairs_needed(0.002, 0.01, margin=0.012) == pairs_needed(0.010, 0.01, margin=0.0)


def test_more_of_the_same_folds_would_not_tell():
    assert pairs_needed(0.01, 0.05, margin=0.0, overlap=0.25) is None
    assert pairs_needed(0.25, 0.05, margin=0.0, overlap=0.25) is not None
