from collections import Counter

import pytest
import torch

from lossbalance.conflict import PCGrad

# g_1 conflicts with both others, which conflict with each other: the order matters
CONFLICT = torch.tensor([[1.0, -0.5, -0.4], [-0.5, 1.0, -0.3], [-0.4, -0.3, 1.0]])


def test_three_gradients_by_hand():
    # g = (1, 0), (-1, 1), (0, 3). Only the first two conflict: g_1 + g_2 / 2, and g_2 + g_1
    rows = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, 3.0]])
    # then g_1 + g_2 / 2 = (1/2, 1/2) and g_2 + g_1 = (0, 1) agree with (0, 3)
    assert PCGrad()(rows @ rows.T).tolist() == pytest.approx([2.0, 1.5, 1.0])


def test_without_conflict_it_is_the_plain_sum():
    assert PCGrad()(torch.tensor([[1.0, 0.5], [0.5, 4.0]])).tolist() == [1.0, 1.0]


def test_all_orders_are_equally_frequent():
    aggregator, orders = PCGrad(), Counter()
    for _ in range(600):
        order = torch.stack(aggregator._order(4), dim=1)
        assert all(sorted([row, *others]) == [0, 1, 2, 3] for row, others in enumerate(order.tolist()))
        orders.update([tuple(order[0].tolist())])
        aggregator(torch.eye(4))
    assert len(orders) == 6
    assert max(abs(count - 100) for count in orders.values()) < 40  # four standard deviations


def test_the_order_changes_between_steps_and_a_resumed_run_draws_the_same():
    straight, resumed = PCGrad(seed=3), PCGrad()
    first = [straight(CONFLICT) for _ in range(8)]
    resumed.load_state_dict(straight.state_dict())
    assert len({tuple(multipliers.tolist()) for multipliers in first}) > 1
    for _ in range(8):
        torch.testing.assert_close(resumed(CONFLICT), straight(CONFLICT), rtol=0, atol=0)


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match="`seed` must be a whole number, from 0 to"):
        PCGrad(seed)
