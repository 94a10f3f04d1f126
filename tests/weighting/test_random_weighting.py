import pytest
import torch

from lossbalance import WeightedLoss
from lossbalance.weighting import RandomWeighting
from lossbalance.weighting.random_numbers import draw, read_random, start_random


def test_the_first_weights_by_hand():
    scheme = RandomWeighting(["a", "b"], seed=3)
    states = [(state * 3202034522624059733 + 2**63) % 2**64 - 2**63 for state in scheme.state.tolist()]
    logits = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor([(state / 2**63 + 1) / 2 for state in states]))

    _, weights = scheme(torch.ones(2))

    assert scheme.state.tolist() == states
    torch.testing.assert_close(weights, torch.softmax(logits, dim=0), rtol=1e-4, atol=0)


def test_the_draws_are_normal_and_independent():
    state, seen = start_random(0, 4), torch.ones(4, dtype=torch.bool)
    draws = []
    for _ in range(4000):
        draw(state, seen)
        draws.append(read_random(state))
    draws = torch.stack(draws)
    assert draws.abs().max() < 1
    normal = torch.erfinv(draws) * 2**0.5
    torch.testing.assert_close(normal.mean(dim=0), torch.zeros(4), atol=0.06, rtol=0)
    torch.testing.assert_close(normal.T.cov(), torch.eye(4), atol=0.09, rtol=0)
    assert (normal[1:] * normal[:-1]).mean().abs() < 0.05


def test_the_weights_are_new_in_every_step_and_equal_in_the_mean():
    scheme = RandomWeighting(["a", "b", "c"])
    weights = torch.stack([scheme(torch.ones(3))[1] for _ in range(2000)])
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2000))
    torch.testing.assert_close(weights.mean(dim=0), torch.full((3,), 1 / 3), atol=0.02, rtol=0)
    assert len(weights[:, 0].unique()) > 1990


def test_two_ranks_with_other_global_seeds_draw_the_same():
    rows = []
    for rank in range(2):
        torch.manual_seed(rank)
        scheme = RandomWeighting(["a", "b"], seed=5)
        rows.append([scheme(torch.ones(2))[1].tolist() for _ in range(3)])
    assert rows[0] == rows[1]


def test_an_absent_term_draws_nothing():
    criterion = WeightedLoss(RandomWeighting(["a", "b"]))
    before = criterion.weighting.state.clone()
    criterion({"a": torch.tensor(1.0), "b": None})
    assert (criterion.weighting.state == before).tolist() == [False, True]


@pytest.mark.parametrize("seed", [-1, 0.5])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    with pytest.raises((TypeError, ValueError), match="`seed` must be a whole number, 0 or more"):
        RandomWeighting(["a"], seed=seed)
