"""Summary of the study of one run."""

import numpy as np
import pandas as pd
import pytest

from studies.one_run.summary import PLAIN, aggregate, choose, compare, conclude, name_method, summarize

COLUMNS = ["scaling", "scheme", "setting", "scale", "rate", "table", "seed", "validation_error", "test_error"]


def make_results(rows):
    best = pd.DataFrame(rows, columns=COLUMNS).assign(checkpoint="best")
    results = pd.concat([best, best.assign(checkpoint="last", test_error=best["test_error"] + 0.1)])
    return results.assign(validation_loss=results["validation_error"], test_loss=results["test_error"])


def make_rows():
    rows = []
    for seed, shift in ((0, 0.0), (1, 0.2)):
        rows += [
            ("raw", "sweep", 0, "own", 0.1, "t", seed, 0.9, 0.9),  # the plain sum
            ("raw", "sweep", 1, "own", 0.1, "t", seed, 0.5, 0.5),  # best in validation, and so the baseline
            ("raw", "sweep", 1, "own", 0.2, "t", seed, 0.6, 0.3),  # better in the test: not to be known
            ("raw", "sweep", 0, "loss_sum", 0.1, "t", seed, 0.4, 0.4),
            ("raw", "sweep", 1, "loss_sum", 0.1, "t", seed, np.nan, np.nan),  # diverged
            ("raw", "Good", 0, "own", 0.1, "t", seed, 2.0, 2.0),
            ("raw", "Good", 0, "own", 0.2, "t", seed, 1.0, 0.4 + shift),
            ("raw", "Good", 0, "loss_sum", 0.1, "t", seed, 1.0, 0.4),
        ]
    return rows


def test_a_comparison_by_hand():
    chosen = choose(make_results(make_rows()))

    excess = compare(chosen)

    assert excess["excess"].xs("t", level="table").to_dict() == pytest.approx(
        {
            ("raw", "sweep", "own"): 0.0,
            ("raw", "sweep", "loss_sum"): -0.2,
            ("raw", PLAIN, "own"): 0.8,
            ("raw", PLAIN, "loss_sum"): -0.2,
            ("raw", "Good", "own"): 0.0,
            ("raw", "Good", "loss_sum"): -0.2,
        },
        abs=1e-9,
    )
    assert excess["error_of_excess"]["raw", "Good", "own", "t"] == pytest.approx(0.2)  # -.1 and .1, over .5
    matched = compare(chosen, "loss_sum", same_scaling=True)["excess"]
    assert matched["raw", "Good", "loss_sum", "t"] == pytest.approx(0.0)
    assert chosen["trainings"]["raw", "sweep", "own", "t", 0] == 3
    assert chosen["trainings"]["raw", "Good", "own", "t", 0] == 2
    last = compare(choose(make_results(make_rows()), checkpoint="last"))["excess"]
    assert last["raw", PLAIN, "own", "t"] == pytest.approx(1.0 / 0.6 - 1)


def test_statistics_over_tables_by_hand():
    index = pd.MultiIndex.from_product([["raw"], ["A"], ["own"], ["a", "b", "c"]])
    index.names = ["scaling", "scheme", "scale", "table"]
    row = aggregate(pd.DataFrame({"excess": [0.0, 0.03, -0.06]}, index=index)).iloc[0]
    assert row[["mean", "median", "worst"]].tolist() == pytest.approx([-0.01, 0.0, 0.03])
    assert row["where"] == "b"
    assert row["high"] - row["mean"] == pytest.approx(4.303 * 0.0458258 / 3**0.5, rel=1e-3)  # Student's t, 2 degrees


def test_the_conclusion_is_within_both_limits_where_a_scheme_is():
    rows = [
        ("raw", "sweep", 0, "own", 0.1, table, 0, error, error)
        for table, error in (("a", 1.0), ("b", 1.0))
    ]  # fmt: skip
    rows += [
        ("raw", scheme, 0, "own", 0.1, table, 0, 1 + excess, 1 + excess)
        for scheme, both in {"One": (-0.3, 0.06), "Two": (-0.1, 0.04), "Three": (0.0, 0.0)}.items()
        for table, excess in zip("ab", both, strict=True)
    ]
    rows.append(("raw", "sweep", 0, "loss_sum", 0.1, "a", 0, 1.0, 1.0))
    rows.append(("raw", "sweep", 0, "loss_sum", 0.1, "b", 0, 1.0, 1.0))
    results = make_results(rows)
    assert conclude(results, summarize(results)) == (
        "Two: one run ends 3.0% below the best of the sweep on average, 4.0% above it on the worst table (b); at most "
        "1% above on average and 5% on the worst table, too: Three."
    )


def test_methods_are_named_by_scheme_scale_and_scaling():
    assert name_method(("raw", "sweep", "loss_sum")) == "best of the sweep with loss_sum"
    assert name_method(("standardized", "NTK", "own")) == "NTK, standardized"
