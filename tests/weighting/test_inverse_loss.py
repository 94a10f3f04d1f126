import pytest
import torch

from lossbalance.weighting import InverseLoss


def weights_after(rows, **settings):
    scheme = InverseLoss(["a", "b"], **settings)
    for row in rows:
        _, weights = scheme(torch.tensor(row))
    return weights


def test_two_steps_by_hand():
    # averages (2 / 2 + 8) / (3 / 2) = 6 and (8 / 2 + 2) / (3 / 2) = 4; first losses 2 and 8
    # in proportion to 1 / sqrt(2 * 6) and 1 / sqrt(8 * 4); weighted averages sqrt(6 / 2) and sqrt(4 / 8), scaled to 2
    weights = weights_after([[2.0, 8.0], [8.0, 2.0]], decay=0.5)
    parts = torch.tensor([3.0, 0.5]).sqrt()
    torch.testing.assert_close(weights, 2 * parts / parts.sum() / torch.tensor([6.0, 4.0]))


def test_the_proportions_at_an_exponent_of_zero_are_those_of_the_first_losses():
    weights = weights_after([[2.0, 8.0], [1.0, 100.0], [30.0, 4.0]], exponent=0.0)
    assert (weights[0] / weights[1]).item() == pytest.approx(4.0)


def test_at_an_exponent_of_one_all_weighted_averages_are_one():
    torch.testing.assert_close(
        weights_after([[2.0, 8.0], [6.0, 4.0]], exponent=1.0, decay=0.0), torch.tensor([1 / 6, 1 / 4])
    )


@pytest.mark.parametrize("exponent", [0.0, 0.3, 1.0])
def test_the_weighted_averages_add_up_to_the_number_of_terms(exponent):
    scheme = InverseLoss(["a", "b", "c"], exponent, decay=0.0)
    for scale in (1.0, 1e-3, 50.0):
        total, _ = scheme(scale * torch.tensor([1.0, 700.0, 0.02]))
        assert total.item() == pytest.approx(3.0)


@pytest.mark.parametrize(("settings", "name"), [({"exponent": 1.5}, "exponent"), ({"decay": 1.0}, "decay")])
def test_settings_out_of_range_are_refused(settings, name):
    with pytest.raises(ValueError, match=f"`{name}` must be a number in"):
        InverseLoss(["a"], **settings)
