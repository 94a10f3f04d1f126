"""What a scheme is shown, whichever way it is called."""

import pytest
import torch
from torch import Tensor

from lossbalance import WeightedLoss
from lossbalance.weighting import Equal, Observation, Weighting, weighted_sum


class Written(Weighting):
    """Writes down what it is shown, and says nothing of what it needs."""

    def __init__(self, terms: list[str]) -> None:
        super().__init__(terms)
        self.shown: list[Observation] = []

    def observe(self, observation: Observation) -> None:
        self.shown.append(observation)

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        return weighted_sum(losses, torch.ones_like(losses), present)


class WrittenNorms(Written):
    uses_gradients = True


def test_a_scheme_that_overrides_observe_is_shown_every_step_without_a_flag():
    scheme = Written(["aux", "main"])
    WeightedLoss(scheme)({"aux": torch.tensor(1.0), "main": None})
    scheme(torch.tensor([1.0, 2.0]))
    assert [shown.seen.tolist() for shown in scheme.shown] == [[True, False], [True, True]]
    assert not Equal(["aux"]).observes


def test_a_norm_of_zero_is_not_seen_by_either_way_into_a_scheme():
    direct, within = WrittenNorms(["aux", "main"]), WrittenNorms(["aux", "main"])
    direct(torch.tensor([3.0, 4.0]), norms=torch.tensor([0.0, 2.0]))
    x = torch.ones(1, requires_grad=True)
    criterion = WeightedLoss(within)
    aux, main = criterion.probe("aux", x), criterion.probe("main", x)
    criterion({"aux": 3 + 0 * aux.sum(), "main": 2 * main.sum() + 2})
    for scheme in (direct, within):
        assert scheme.shown[-1].seen.tolist() == [False, True]
        assert scheme.shown[-1].norms.tolist() == [0.0, 2.0]


def test_a_loss_or_a_norm_that_is_not_finite_is_not_seen():
    scheme = WrittenNorms(["aux", "main"])
    scheme(torch.tensor([1.0, torch.nan]), norms=torch.tensor([1.0, 1.0]))
    scheme(torch.tensor([1.0, 1.0]), norms=torch.tensor([torch.inf, 1.0]))
    assert [shown.norms.tolist() for shown in scheme.shown] == [[0.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("count", [1, 2, 7, 33])
@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_one_loss_that_is_not_finite_hides_the_whole_step(count, broken):
    scheme = Written([f"term_{i}" for i in range(count)])
    for place in range(count):
        losses = torch.full((count,), -3e38)  # finite, though their sum is not
        scheme(losses)
        losses[place] = broken
        scheme(losses)
        assert scheme.shown[-2].seen.all()
        assert not scheme.shown[-1].seen.any()
