"""Summary of the study of auxiliary losses."""

import pandas as pd
import pytest

from studies.auxiliary.cases import HARMFUL, KINDS, RELATED
from studies.auxiliary.methods import ALONE, METHODS, PLAIN, name_alpha
from studies.auxiliary.plot import draw
from studies.auxiliary.summary import BEST_ALPHA, CHOICES, compare, conclude, summarize, tabulate

TEST = {RELATED: {PLAIN: 0.9, name_alpha(0.5): 0.8}, HARMFUL: {PLAIN: 1.5, "Gate": 1.004}}


def results(**test: float) -> pd.DataFrame:
    """Results in which validation and test losses are equal; those given are of related terms."""
    rows = []
    for kind in KINDS:
        for seed, method in ((seed, method) for seed in (0, 1) for method in METHODS):
            loss = (TEST.get(kind, {}) | (test if kind == RELATED else {})).get(method, 1.0)
            cell = {"table": "body", "kind": kind, "rows": 100, "seed": seed, "method": method}
            rows.append(cell | {"validation": loss, "test": loss})
    return pd.DataFrame(rows)


def test_changes_are_relative_to_the_main_loss_alone_and_choices_are_made_by_validation():
    changes = compare(results()).loc[("body", RELATED, 100)]
    assert changes[PLAIN] == pytest.approx(-10)
    assert changes[BEST_ALPHA] == pytest.approx(-20)
    harmful = compare(results()).loc[("body", HARMFUL, 100)]
    assert harmful[PLAIN] == pytest.approx(50)
    assert harmful[list(CHOICES)].tolist() == [0, 0]  # the main loss alone is kept


def test_the_part_of_the_gain_of_the_best_alpha_that_is_kept():
    summary = summarize(results())
    assert summary.loc[PLAIN, "gain kept"] == pytest.approx(0.5)
    assert summary.loc[PLAIN, f"{HARMFUL}, worst"] == pytest.approx(50)
    assert list(tabulate(results(), summary)) == [
        f"test loss of the main term against {ALONE}, %, 1 cases of 2 seeds for each kind"
    ]


def test_the_conclusion_names_methods_that_reach_the_goals_or_the_closest():
    reached = conclude(results(), summarize(results(Protect=1.0, Gate=0.84)))
    assert reached.endswith("80% of the gain of the best alpha kept: Gate.")
    closest = conclude(results(), summarize(results()))
    assert closest.startswith("No method has at most 0.5 % lost to harmful terms on average and 2 % at worst")
    assert f"{ALONE} or {PLAIN}, by validation comes closest: +0.0 % on average" in closest


def test_the_picture_has_a_panel_for_each_kind():
    assert len(draw(results(), summarize(results())).axes) == len(KINDS)
