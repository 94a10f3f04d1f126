import math

import pytest
import torch

from lossbalance.weighting import LRAnnealing, Observation


def observe(scheme: LRAnnealing, norms: list[float], seen: list[bool] | None = None) -> list[float]:
    mask = torch.tensor(seen or [True] * len(norms))
    row = torch.tensor(norms).where(mask, 0.0)
    scheme.observe(Observation(torch.ones_like(row), row, mask))
    return scheme(torch.ones_like(row))[1].tolist()


def test_weights_move_towards_the_ratio_of_norms_by_hand():
    scheme = LRAnnealing(["residual", "boundary", "initial"], decay=0.75)
    assert observe(scheme, [12.0, 2.0, 24.0]) == [1.0, 6.0, 0.5]
    assert observe(scheme, [12.0, 6.0, 24.0]) == [1.0, 5.0, 0.5]


def test_without_the_first_term_nothing_moves():
    scheme = LRAnnealing(["residual", "boundary"])
    before = observe(scheme, [12.0, 2.0])
    assert observe(scheme, [math.nan, 7.0], seen=[False, True]) == before


def test_a_decay_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"`decay` must be a number in \[0, 1\), got -0.5"):
        LRAnnealing(["residual", "boundary"], decay=-0.5)
