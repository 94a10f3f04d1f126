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

    assert observe(scheme, 3.0, 1.0) == pytest.approx([0.2 / 3, 0.8 / 1])
    # averages (3 / 2 + 1) / (3 / 2) = 5 / 3 and (1 / 2 + 4) / (3 / 2) = 3
    assert observe(scheme, 1.0, 4.0) == pytest.approx([0.2 * 3 / 5, 0.8 / 3])


def test_losses_a_thousand_apart_get_their_ratios_at_once_and_keep_them():
    scheme = GradBalance(["aux", "main"], ratios={"aux": 3, "main": 1})
    for step in range(200):
        norms = torch.tensor([1000.0, 1.0]) * (1 + 0.3 * math.sin(step))
        weights = torch.tensor(observe(scheme, *norms.tolist()))
        shares = weights * norms / (weights * norms).sum()
        torch.testing.assert_close(shares, torch.tensor([0.75, 0.25]))


def test_the_norms_of_the_weighted_gradients_add_up_to_one_at_any_scale():
    plain, scaled = GradBalance(["aux", "main"]), GradBalance(["aux", "main"])
    for step in range(1, 5):
        weights = observe(plain, 3.0 / step, 1.0)
        assert observe(scaled, 3e8 / step, 1e8) == pytest.approx([weight / 1e8 for weight in weights])
    assert observe(GradBalance(["a", "b", "c"], {"a": 1, "b": 2, "c": 7}), 5.0, 5.0, 5.0) == pytest.approx(
        [0.02, 0.04, 0.14]
    )


def test_a_term_that_is_to_have_one_percent_keeps_it_while_the_other_gradient_fades():
    scheme, norm = GradBalance(["router", "main"], ratios={"router": 1, "main": 99}), 1.0
    for _ in range(300):
        norm *= 0.99
        router, main = observe(scheme, 1.0, norm)
    assert router / (router + main * norm) == pytest.approx(0.01, rel=0.15)


def test_an_absent_term_leaves_the_others_as_they_are():
    scheme = GradBalance(["large", "small", "other"])
    before = observe(scheme, 1000.0, 1.0, 2.0)
    for _ in range(100):
        after = observe(scheme, math.nan, 1.0, 2.0, seen=[False, True, True])
    assert after == pytest.approx(before)


def test_weights_stay_positive_and_finite_at_any_scale():
    scheme = GradBalance(["a", "b", "c"])
    for norms in ([1e-12, 1.0, 1e12], [1e12, 1e-12, 1.0], [1.0, 1e12, 1e-12]):
        weights = observe(scheme, *norms)
        assert min(weights) > 0
        assert math.isfinite(sum(weights))


def test_a_term_never_seen_weighs_one():
    weights = observe(GradBalance(["a", "b", "c"]), 1.0, 3.0, 0.0, seen=[True, True, False])
    assert weights == pytest.approx([1 / 3, 1 / 9, 1.0])


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


def test_tuned_weights_hold_at_first_and_then_the_shares_that_they_gave():
    scheme = GradBalance(["aux", "main"], start={"aux": 0.1, "main": 1.0}, start_steps=2, decay=0.5)
    assert scheme(torch.ones(2))[1].tolist() == pytest.approx([0.1, 1.0])
    assert observe(scheme, 4.0, 1.0) == pytest.approx([0.1, 1.0])
    assert observe(scheme, 8.0, 3.0) == pytest.approx([0.1, 1.0])
    # mean norms 6 and 2; averages (4 / 8 + 8 / 4 + 16 / 2) * 8 / 7 = 12 and (1 / 8 + 3 / 4 + 1 / 2) * 8 / 7
    assert observe(scheme, 16.0, 1.0) == pytest.approx([0.1 * 6 / 12, 2 / (11 / 7)])


def test_after_the_start_each_term_keeps_its_share_while_its_gradient_grows_a_hundredfold():
    scheme = GradBalance(["aux", "main"], start={"aux": 0.1, "main": 1.0}, start_steps=10)
    for _ in range(10):
        observe(scheme, 5.0, 2.0)
    for _ in range(200):
        weights = observe(scheme, 500.0, 2.0)
    assert [weights[0] * 500.0, weights[1] * 2.0] == pytest.approx([0.1 * 5.0, 1.0 * 2.0])


@pytest.mark.parametrize("decay", [0.9, 0.99, 0.999])
def test_once_its_norm_is_known_no_gradient_is_more_than_ten_times_its_share(decay):
    scheme = GradBalance(["stay", "task"], decay=decay)
    for norm in [1e-7] * 50 + [0.5] * 50:
        weights = observe(scheme, norm, 1.0)
        assert weights[0] * norm <= 10.001 * 0.5


def test_ratios_and_tuned_weights_exclude_each_other():
    with pytest.raises(ValueError, match="`ratios` and `start` both set the share of each term"):
        GradBalance(["aux", "main"], ratios={"aux": 1, "main": 1}, start={"aux": 1, "main": 1})
    with pytest.raises(ValueError, match=r"`start\['aux'\]` must be a positive, finite number, got 0"):
        GradBalance(["aux", "main"], start={"aux": 0, "main": 1})
    with pytest.raises(ValueError, match="`start_steps` must be a whole number, 1 or more, got 0"):
        GradBalance(["aux", "main"], start={"aux": 1, "main": 1}, start_steps=0)
