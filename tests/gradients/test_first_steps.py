"""No explosion: terms that start at their minimum, up to rounding."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lossbalance import WeightedLoss
from lossbalance.gradients.first_steps import FIRST_STEPS
from lossbalance.weighting import GradBalance

TARGET = torch.tensor([3.0, 0.0])


def norms_of_steps(
    criterion: WeightedLoss, learning_rate: Callable[[int], float], shared: bool = False, off: float = 1e-7
) -> list[float]:
    """The norms of the gradient in six steps of SGD: one term pulls away from where the other starts."""
    w, norms = torch.ones(2, requires_grad=True), []
    start = w.detach() + off
    for step in range(8):
        w.grad = None
        task, stay = (w, w) if shared else (criterion.probe("task", w), criterion.probe("stay", w))
        losses = {"task": (task - TARGET).square().mean(), "stay": (stay - start).square().sum()}
        criterion(losses, shared=w if shared else None).backward()
        norms.append(w.grad.norm().item())
        with torch.no_grad():
            w -= learning_rate(step) * w.grad
    return norms


@pytest.mark.parametrize("loss_sum", [None, 2.0])
@pytest.mark.parametrize("warm_up", [False, True])
@pytest.mark.parametrize("off", [1e-7, -1e-7, 0.0])
def test_a_term_that_starts_at_its_minimum_does_not_explode(loss_sum, warm_up, off):
    def learning_rate(step: int) -> float:
        return 0.1 * min(step / 3, 1) if warm_up else 0.1

    criterion = WeightedLoss(GradBalance(["task", "stay"]), loss_sum=loss_sum)
    norms = norms_of_steps(criterion, learning_rate, off=off)
    scale = criterion.scale(criterion.weighting).item() if loss_sum else 1.0
    assert max(norms) < 3 * max(scale, 1.0)  # the scheme aims at a half for each term


def test_its_norms_are_those_of_the_step_itself():
    ours = norms_of_steps(WeightedLoss(GradBalance(["task", "stay"])), lambda _: 0.1)
    own = norms_of_steps(WeightedLoss(GradBalance(["task", "stay"])), lambda _: 0.1, shared=True)
    assert ours == pytest.approx(own, rel=1e-4)


def test_only_the_first_steps_are_measured_ahead_and_only_of_a_term_near_its_minimum():
    def count_ahead(scale: Tensor) -> int:
        criterion, x, count = WeightedLoss(GradBalance(["a", "b"])), torch.ones(2, requires_grad=True), 0
        for _ in range(FIRST_STEPS + 5):
            known = len(criterion.probes.known)
            a, b = criterion.probe("a", x), criterion.probe("b", x)
            criterion({"a": a.square().sum(), "b": scale * b.square().sum()}).backward()
            count += known < 2
        return count

    assert count_ahead(torch.tensor(1e-3)) == 1
    assert count_ahead(torch.tensor(1e-6)) == FIRST_STEPS
    assert count_ahead(torch.tensor(0.0)) == FIRST_STEPS


def test_a_run_that_is_resumed_in_its_first_steps_goes_on_bit_for_bit():
    def make() -> WeightedLoss:
        return WeightedLoss(GradBalance(["task", "stay"]))

    whole, first, second = make(), make(), make()
    w = torch.ones(2)

    def step(criterion: WeightedLoss, at: Tensor) -> Tensor:
        x = at.clone().requires_grad_()
        task, stay = criterion.probe("task", x), criterion.probe("stay", x)
        criterion({"task": (task - TARGET).square().mean(), "stay": (stay - 1).square().sum()}).backward()
        return torch.stack(list(criterion.weights.values()))

    points = [w + 1e-7 * (i == 0) + 0.05 * i for i in range(6)]
    expected = [step(whole, point) for point in points]
    for point in points[:3]:
        step(first, point)
    second.load_state_dict(first.state_dict())
    for point, weights in zip(points[3:], expected[3:], strict=True):
        assert torch.equal(step(second, point), weights)
