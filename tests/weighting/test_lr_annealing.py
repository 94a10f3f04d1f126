import math

import pytest
import torch

from lossbalance.weighting import LRAnnealing, Observation

TERMS = ["residual", "boundary", "initial"]


def observe(scheme, gradients, seen=None):
    """Shows the gradients, one row per term, and returns the weights."""
    rows = torch.tensor(gradients)
    ones, is_seen = torch.ones(len(rows)), torch.tensor(seen or [True] * len(rows))
    magnitudes = rows.abs()
    scheme.observe(Observation(ones, rows.norm(dim=1), is_seen, magnitudes.amax(dim=1), magnitudes.mean(dim=1)))
    return scheme.eval()(ones)[1].tolist()


def test_weights_move_towards_the_maximum_over_the_mean_by_hand():
    scheme = LRAnnealing(TERMS, decay=0.75)
    assert observe(scheme, [[-12.0, 0.0], [1.0, -3.0], [24.0, 24.0]]) == [1.0, 6.0, 0.5]
    assert observe(scheme, [[-12.0, 0.0], [6.0, 6.0], [24.0, 24.0]]) == [1.0, 5.0, 0.5]


def test_weights_move_towards_the_ratio_of_norms_by_hand():
    scheme = LRAnnealing(TERMS, decay=0.75, statistic="norm")
    assert not scheme.uses_magnitudes
    assert observe(scheme, [[12.0, 0.0], [0.0, -2.0], [24.0, 0.0]]) == [1.0, 6.0, 0.5]
    assert observe(scheme, [[12.0, 0.0], [0.0, -6.0], [24.0, 0.0]]) == [1.0, 5.0, 0.5]


@pytest.mark.parametrize("statistic", ["max_mean", "norm"])
def test_without_the_first_term_its_last_gradient_is_the_reference(statistic):
    scheme, together = (LRAnnealing(TERMS[:2], statistic=statistic) for _ in range(2))
    for gradients in ([[12.0, 0.0], [2.0, 1.0]], [[12.0, 0.0], [7.0, 7.0]]):
        expected = observe(together, gradients)
    observe(scheme, [[12.0, 0.0], [2.0, 1.0]])
    assert observe(scheme, [[math.nan, math.nan], [7.0, 7.0]], seen=[False, True]) == expected


def test_before_the_first_term_was_seen_the_others_weigh_one():
    scheme = LRAnnealing(TERMS[:2], statistic="norm")
    assert observe(scheme, [[0.0, 0.0], [2.0, 1.0]], seen=[False, True]) == [1.0, 1.0]
    assert observe(scheme, [[12.0, 0.0], [3.0, 0.0]]) == [1.0, 4.0]


def test_no_weight_exceeds_five_times_the_ratio_of_the_last_gradients():
    scheme = LRAnnealing(TERMS[:2], decay=0.9, statistic="norm")
    observe(scheme, [[1.0, 0.0], [1e-7, 0.0]])
    assert observe(scheme, [[1.0, 0.0], [0.5, 0.0]]) == pytest.approx([1.0, 10.0])
    assert observe(scheme, [[1.0, 0.0], [0.5, 0.0]]) == pytest.approx([1.0, 0.9 * 10 + 0.1 * 2])


def test_a_term_that_comes_later_starts_at_its_ratio():
    scheme = LRAnnealing(TERMS)
    observe(scheme, [[12.0, 0.0], [2.0, 2.0], [0.0, 0.0]], seen=[True, True, False])
    assert observe(scheme, [[12.0, 0.0], [2.0, 2.0], [3.0, 3.0]]) == pytest.approx([1.0, 6.0, 4.0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay": -0.5}, r"`decay` must be a number in \[0, 1\), got -0.5"),
        ({"statistic": "norms"}, r"`statistic` must be one of .*, got 'norms' \(did you mean 'norm'\?\)"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LRAnnealing(TERMS, **settings)
