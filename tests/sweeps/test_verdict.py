import math
import re

import numpy as np
import pytest
from scipy import stats

from lossbalance.sweeps.verdict import pairs_needed, quantity, verdict


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
            "No practically relevant difference: `alpha=0.1` .* is inside the margin of 0.008: either will do",
        ),
        (
            {0.1: [0.8001, 0.8002, 0.8002], 0.2: [0.8, 0.8001, 0.8]},
            "No practically relevant difference: `alpha=0.1` .*, but `alpha=0.2` is within 0.008 of it",
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


def test_a_margin_decides_what_is_worth_having(compare):
    comparison = compare({0.1: [0.81, 0.82, 0.82], 0.5: [0.8, 0.81, 0.8]})
    assert verdict(comparison, margin=0.001).startswith("Too few runs to say")
    assert verdict(comparison, margin=0.1).startswith("No practically relevant difference")


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
