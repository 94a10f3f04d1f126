"""Weights hold still where a step is only tried out."""

import copy

import pytest
import torch
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.weighting import Equal, Fixed, GradBalance, GradNorm, UncertaintySoftmax


class Quadratic(nn.Module):
    """Two quadratics of one point, of very different curvature: 0 is the minimum of neither."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.linspace(-1, 2, 20, dtype=torch.float64))
        self.register_buffer("scale", torch.logspace(0, 3, 20, dtype=torch.float64))

    def losses(self, criterion: WeightedLoss) -> dict[str, torch.Tensor]:
        a, b = criterion.probe("a", self.point), criterion.probe("b", self.point)
        return {"a": (self.scale * (a - 1).square()).sum(), "b": (self.scale.flip(0) * (b + 1).square()).sum()}


def minimize(criterion: WeightedLoss, attach: bool = True, steps: int = 40) -> tuple[float, dict[str, torch.Tensor]]:
    """Returns the size of the gradient after some steps of L-BFGS with a line search, and the weights of the last."""
    model = Quadratic()
    optimizer = torch.optim.LBFGS([model.point], max_iter=10, line_search_fn="strong_wolfe", tolerance_change=1e-14)
    if attach:
        criterion.attach(optimizer, model)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        total = criterion(model.losses(criterion))
        total.backward()
        return total

    for _ in range(steps):
        optimizer.step(closure)
    optimizer.zero_grad()
    weights = criterion.weights
    sum(weights[term] * loss for term, loss in model.losses(criterion).items()).backward()
    return model.point.grad.abs().max().item(), weights


def test_lbfgs_converges_as_with_fixed_weights():
    weights = {"a": 0.7, "b": 1.3}
    fixed, _ = minimize(WeightedLoss(Fixed(["a", "b"], weights)))
    balanced, reached = minimize(WeightedLoss(GradBalance(["a", "b"])))
    assert reached["a"] != reached["b"]
    assert fixed < 1e-4
    assert balanced < 1e-2


def test_only_the_first_evaluation_of_a_closure_is_observed():
    criterion, model, seen = WeightedLoss(UncertaintySoftmax(["a", "b"])), Quadratic(), []
    optimizer = torch.optim.LBFGS([model.point], max_iter=4, line_search_fn="strong_wolfe")
    attachment = criterion.attach(optimizer, model)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        total = criterion(model.losses(criterion))
        total.backward()
        seen.append(criterion.weights["a"].item())
        return total

    for _ in range(2):
        optimizer.step(closure)
        assert len(seen) > 2
        assert len(set(seen)) == 1
        seen.clear()
    attachment.remove()
    optimizer.step(closure)
    assert len(set(seen)) > 1


@pytest.mark.parametrize("scheme", [GradNorm, UncertaintySoftmax])
def test_within_frozen_nothing_is_observed_and_the_gradient_is_that_of_the_weights_as_they_are(scheme):
    model, criterion = Quadratic(), WeightedLoss(scheme(["a", "b"]))
    criterion(model.losses(criterion)).backward()
    weights, state = criterion.weights, copy.deepcopy(criterion.state_dict())
    with criterion.frozen(), criterion.frozen():
        model.point.data.mul_(2)
        criterion(model.losses(criterion)).backward()
        torch.testing.assert_close(criterion.weights, weights, rtol=0, atol=0)
    torch.testing.assert_close(criterion.state_dict(), state, rtol=0, atol=0)
    assert not criterion._frozen


def test_an_optimizer_that_calls_its_closure_once_observes_every_step():
    model, criterion = Quadratic(), WeightedLoss(UncertaintySoftmax(["a", "b"]))
    optimizer = torch.optim.SGD([model.point], lr=1e-4)
    criterion.attach(optimizer, model)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        total = criterion(model.losses(criterion))
        total.backward()
        return total

    weights = []
    for _ in range(3):
        optimizer.step(closure)
        weights.append(criterion.weights["a"].item())
    assert len(set(weights)) == 3
    assert Equal(["a"]).observes is False
