import math

import numpy as np
import pytest

from lossbalance.sweeps.trade_off import default_trade_off, hypervolume, pareto_front, trade_off


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
