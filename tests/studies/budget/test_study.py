"""The study of budgets."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from studies import budget
from studies.budget.study import Settings, draw_log_normal
from studies.budget.summary import expect_best, expect_staged
from studies.common.study import report_study

TINY = Settings(tables=("tumour",), seeds=1, optimizers=("adam", "sgd"), draws=3, steps=2, checkpoints=1, width=4)


def test_the_expected_test_error_is_the_mean_over_all_ways_to_draw():
    validation, test = np.array([3.0, 1.0, 2.0, 4.0]), np.array([30.0, 15.0, 20.0, 10.0])
    for count in (1, 2, 3, 4):
        drawn = [list(some) for some in combinations(range(4), count)]
        expected = np.mean([test[some][np.argmin(validation[some])] for some in drawn])
        assert expect_best(validation, test, count) == pytest.approx(expected)


def test_a_staged_search_draws_weights_at_the_best_learning_rate_only():
    rows = [
        # draw, rate, validation, test
        (0, 0.1, 2.0, 20.0),
        (0, 0.2, 3.0, 30.0),
        (1, 0.1, 1.0, 10.0),
        (2, 0.1, 5.0, 50.0),
        (1, 0.2, 0.0, 0.0),  # at the other learning rate
    ]
    pool = pd.DataFrame(rows, columns=["draw", "rate", "validation_error", "test_error"])
    assert expect_staged(pool, 1) == 25.0
    assert expect_staged(pool, 2) == 20.0
    assert expect_staged(pool, 3) == 15.0  # the first draw helps, the second changes nothing
    assert expect_staged(pool, 4) == 10.0


def test_draws_add_up_to_the_number_of_terms_and_begin_with_equal_ones():
    drawn = draw_log_normal(5, 3, 1.0, seed=0)
    torch.testing.assert_close(drawn.sum(1), torch.full((6,), 3.0))
    torch.testing.assert_close(drawn[0], torch.ones(3))


def test_the_report_is_a_table_for_each_optimizer_a_picture_and_a_sentence(tmp_path):
    console = Console(record=True, width=250)
    conclusion = report_study(budget, TINY, tmp_path, console=console)
    text = console.export_text()
    assert "sgd: test error against the plain sum at its best rate, 1 tables, 1 seeds" in text
    assert "GradBalance, weight_sum: rate and ratios (rate first)" in text
    assert conclusion.startswith("adam: the lowest error is that of ")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    assert pd.read_csv(tmp_path / "results.csv")["test_error"].notna().all()


@pytest.mark.parametrize(("argument", "value"), [("draws", 0), ("spread", 0.0), ("optimizers", ("adma",))])
def test_settings_out_of_range_are_refused(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        Settings(**{argument: value})
