import pytest
import torch

from lossbalance import WeightedLoss
from lossbalance.weighting import ReLoBRaLo


def balance(now, then, temperature):
    return len(now) * torch.softmax(torch.tensor(now) / torch.tensor(then) / temperature, dim=0)


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_three_steps_by_hand_with_and_without_a_look_back(rho):
    scheme = ReLoBRaLo(["a", "b"], alpha=0.75, temperature=0.5, rho=rho)
    first, second, third = [4.0, 1.0], [2.0, 1.0], [1.0, 1.2]

    assert scheme(torch.tensor(first))[1].tolist() == [1.0, 1.0]
    torch.testing.assert_close(scheme(torch.tensor(second))[1], balance(second, first, 0.5))

    history = balance(second, first, 0.5) if rho else balance(third, first, 0.5)
    expected = 0.75 * history + 0.25 * balance(third, second, 0.5)
    torch.testing.assert_close(scheme(torch.tensor(third))[1], expected)


def test_it_looks_back_as_often_as_rho_says():
    scheme, looked = ReLoBRaLo(["a", "b"], alpha=1.0, temperature=1.0, rho=0.8), 0
    scheme(torch.tensor([1.0, 1.0]))
    scheme(torch.tensor([1.0, 1.0]))
    for step in range(1000):
        before, row = scheme.weight.clone(), [1.0 + step % 7, 1.0]
        _, weights = scheme(torch.tensor(row))
        looked += int(not torch.equal(weights, before))
    assert looked == pytest.approx(1000 * 0.2 * 6 / 7, rel=0.25)  # in a seventh of the steps there is nothing to see


def test_the_unit_of_a_loss_makes_no_difference():
    plain, scaled = ReLoBRaLo(["a", "b"], rho=0.5), ReLoBRaLo(["a", "b"], rho=0.5)
    for step in range(20):
        row = torch.rand(2, generator=torch.Generator().manual_seed(step)) + 0.5
        torch.testing.assert_close(plain(row)[1], scaled(row * torch.tensor([1024.0, 0.125]))[1])


def test_an_absent_term_keeps_its_weight():
    criterion = WeightedLoss(ReLoBRaLo(["a", "b"], temperature=1.0))
    for a, b in [(1.0, 4.0), (1.0, 2.0), (0.5, None)]:
        before = criterion.weighting.weight.clone()
        criterion({"a": torch.tensor(a), "b": None if b is None else torch.tensor(b)})
    assert (criterion.weighting.weight == before).tolist() == [False, True]
    assert criterion.weighting.latest.tolist() == [0.5, 2.0]


def test_a_term_that_comes_later_counts_as_one_without_progress_at_first():
    criterion = WeightedLoss(ReLoBRaLo(["a", "late"], temperature=1.0))
    for a, late in [(4.0, None), (2.0, 50.0)]:
        criterion({"a": torch.tensor(a), "late": None if late is None else torch.tensor(late)})
    torch.testing.assert_close(criterion.weights["a"], balance([2.0, 1.0], [4.0, 1.0], 1.0)[0])
    assert criterion.weights["late"] == 1.0


@pytest.mark.parametrize("name", ["alpha", "rho"])
def test_settings_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=rf"`{name}` must be a number in \[0, 1\], got 1.5"):
        ReLoBRaLo(["a"], **{name: 1.5})
