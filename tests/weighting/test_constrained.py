import pytest
import torch
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.weighting import Constrained


def test_two_steps_by_hand():
    scheme = Constrained(["recon", "kl"], {"recon": 1.0}, lr=0.1, max_weight=10.0, decay=0.5)
    total, weights = scheme(torch.tensor([3.0, 5.0]))  # w = 0.1 (3 - 1)
    assert weights.tolist() == pytest.approx([0.2, 1.0])
    assert total.item() == pytest.approx(5.0 + 0.2 * 2.0)

    _, weights = scheme(torch.tensor([0.0, 5.0]))  # average (3 / 2 + 0) / (3 / 2) = 1, on the limit

    assert weights.tolist() == pytest.approx([0.2, 1.0])


@pytest.mark.parametrize(("limit", "multiplier"), [(1.0, 1.0), (0.25, 3.0), (9.0, 0.0)])
def test_on_a_convex_problem_it_ends_at_the_known_multiplier(limit, multiplier):
    # minimize x^2 such that (x - 2)^2 <= limit: x = 2 - sqrt(limit), where x + w (x - 2) = 0
    x, criterion = (
        nn.Parameter(torch.tensor(0.0)),
        WeightedLoss(Constrained(["free", "near"], {"near": limit}, lr=0.02)),
    )
    optimizer = torch.optim.SGD([x], lr=0.05)
    for _ in range(4000):
        optimizer.zero_grad()
        criterion({"free": x.square(), "near": (x - 2).square()}).backward()
        optimizer.step()
    assert criterion.weights["near"].item() == pytest.approx(multiplier, abs=1e-3)
    assert x.item() == pytest.approx(max(0.0, 2 - limit**0.5), abs=1e-3)


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_the_default_rate_ends_at_the_known_multiplier_in_any_unit(unit):
    x = nn.Parameter(torch.tensor(0.0))
    criterion = WeightedLoss(Constrained(["free", "near"], {"near": unit}))
    optimizer = torch.optim.SGD([x], lr=0.05)
    for _ in range(4000):
        optimizer.zero_grad()
        criterion({"free": x.square(), "near": unit * (x - 2).square()}).backward()
        optimizer.step()
    assert criterion.weights["near"].item() * unit == pytest.approx(1.0, abs=1e-3)
    assert x.item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("limit", [-4.0, 0.0, 5.0])
def test_the_defaults_by_hand(limit):
    unit = abs(limit) or 1.0
    scheme = Constrained(["free", "near"], {"near": limit})
    _, weights = scheme(torch.tensor([1.0, limit + 2.0]))
    assert weights.tolist() == pytest.approx([1.0, 0.01 / unit**2 * 2.0])
    scheme(torch.tensor([1.0, limit + 1e9]))
    with pytest.warns(UserWarning, match=f"and its weight at `max_weight`={100 / unit:g}"):
        scheme.eval()


def test_a_limit_out_of_reach_ends_at_the_largest_weight_and_in_a_warning_by_name_and_number():
    x = nn.Parameter(torch.tensor(0.0))
    criterion = WeightedLoss(Constrained(["free", "near"], {"near": -1.0}, lr=1.0, max_weight=5.0))
    optimizer = torch.optim.SGD([x], lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        criterion({"free": x.square(), "near": (x - 2).square()}).backward()
        optimizer.step()
    assert criterion.weights["near"] == 5.0
    with pytest.warns(UserWarning, match=r"The limit of 'near', -1, is out of reach: its loss stands at 0\.\d+, .*=5"):
        criterion.eval()


def test_a_limit_that_is_kept_warns_of_nothing_and_weighs_nothing():
    criterion = WeightedLoss(Constrained(["free", "near"], {"near": 4.0}))
    for _ in range(3):
        assert criterion({"free": torch.tensor(1.0), "near": torch.tensor(2.0)}).item() == 1.0
    criterion.eval()
    assert {term: distance.item() for term, distance in criterion.weighting.distances.items()} == {"near": -2.0}


def test_an_absent_term_keeps_its_multiplier_and_costs_nothing():
    criterion = WeightedLoss(Constrained(["free", "near"], {"near": 1.0}, lr=0.1))
    criterion({"free": torch.tensor(1.0), "near": torch.tensor(2.0)})
    assert criterion({"free": torch.tensor(1.0), "near": None}).item() == 1.0
    assert criterion.weighting.weight.tolist() == pytest.approx([1.0, 0.1])


@pytest.mark.parametrize(
    ("limits", "settings", "message"),
    [
        ({}, {}, r"`limits` must give a limit to at least one term of \['aux', 'main'\]"),
        ({"axu": 1.0}, {}, r"`limits` must name terms of .*, got 'axu' \(did you mean 'aux'\?\)"),
        ({"aux": float("nan")}, {}, r"`limits\['aux'\]` must be a finite number, in the unit of the loss, got nan"),
        ([1.0], {}, r"`limits` must map terms of \['aux', 'main'\] to numbers, got \[1.0\]"),
        ({"aux": 1.0}, {"lr": 0.0}, "`lr` must be a positive, finite number, got 0.0"),
        ({"aux": 1.0}, {"max_weight": -1.0}, "`max_weight` must be a positive, finite number, got -1.0"),
        ({"aux": 1.0}, {"decay": 1.0}, r"`decay` must be a number in \[0, 1\), got 1.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(limits, settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Constrained(["aux", "main"], limits, **settings)
