import math

import pytest
import torch

from lossbalance.weighting import GradBalance, Observation


def observe(scheme: GradBalance, *norms: float, seen: list[bool] | None = None) -> list[float]:
    mask = torch.tensor(seen or [True] * len(norms))
    row = torch.tensor(norms).where(mask, 0.0)
    scheme.observe(Observation(torch.ones_like(row), row, mask))
    return scheme(torch.ones_like(row))[1].tolist()


def test_two_steps_by_hand():
    scheme = GradBalance(["aux", "main"], ratios={"aux": 1, "main": 4}, decay=0.5)

    # shares 3/4 and 1/4: weights in proportion to 4/3 and 4 * 4
    assert observe(scheme, 3.0, 1.0) == pytest.approx([2 * (4 / 3) / (52 / 3), 2 * 16 / (52 / 3)])
    # shares 1/2 and 1/2; averages (3/4 / 2 + 1/2) / (3/2) = 7/12 and 5/12: in proportion to 12/7 and 48/5
    assert observe(scheme, 1.0, 1.0) == pytest.approx([2 * (12 / 7) / (396 / 35), 2 * (48 / 5) / (396 / 35)])


def test_losses_a_thousand_apart_get_their_ratios_at_once_and_keep_them():
    scheme = GradBalance(["aux", "main"], ratios={"aux": 3, "main": 1})
    for step in range(200):
        norms = torch.tensor([1000.0, 1.0]) * (1 + 0.3 * math.sin(step))
        weights = torch.tensor(observe(scheme, *norms.tolist()))
        shares = weights * norms / (weights * norms).sum()
        torch.testing.assert_close(shares, torch.tensor([0.75, 0.25]))


def test_a_factor_that_all_norms_share_changes_nothing():
    plain, scaled = GradBalance(["aux", "main"]), GradBalance(["aux", "main"])
    for step in range(1, 5):
        assert observe(plain, 3.0 / step, 1.0) == pytest.approx(observe(scaled, 3e8 / step, 1e8))


def test_an_absent_term_leaves_the_others_sane():
    scheme = GradBalance(["large", "small", "other"])
    before = observe(scheme, 1000.0, 1.0, 2.0)
    for _ in range(100):
        after = observe(scheme, math.nan, 1.0, 2.0, seen=[False, True, True])
    assert after == pytest.approx(before)


def test_weights_stay_positive_and_add_up_to_their_number_at_any_scale():
    scheme = GradBalance(["a", "b", "c"])
    for norms in ([1e-12, 1.0, 1e12], [1e12, 1e-12, 1.0], [1.0, 1e12, 1e-12]):
        weights = observe(scheme, *norms)
        assert min(weights) > 0
        assert sum(weights) == pytest.approx(3)


def test_a_term_never_seen_weighs_one():
    assert observe(GradBalance(["a", "b", "c"]), 1.0, 3.0, 0.0, seen=[True, True, False]) == [1.5, 0.5, 1.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratios": {"aux": 1}}, r"`ratios` must name each term of \['aux', 'main'\] once: missing \['main'\]"),
        ({"ratios": {"aux": 1, "main": 0}}, r"`ratios\['main'\]` must be a positive, finite number, got 0"),
        ({"ratios": [1, 4]}, r"`ratios` must map each term"),
        ({"decay": 1.0}, r"`decay` must be a number in \[0, 1\), got 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        GradBalance(["aux", "main"], **settings)
