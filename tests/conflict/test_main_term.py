"""Guarantee of Protect and Gate: a step is at least as long along the main gradient as that of the main term alone."""

import pytest
import torch
from torch import Tensor

from lossbalance import WeightedLoss
from lossbalance.conflict import Aggregator, Gate, Protect
from lossbalance.weighting import Equal, GradBalance

CLASSES = [Protect, Gate]
TERMS = ["left", "main", "right"]
PRECISION = {torch.float32: 1e-6, torch.float64: 1e-14}
"""Relative rounding error of a squared norm."""


def _opposed(rows: Tensor) -> Tensor:
    return torch.cat([rows[:1], -rows[:1] + 1e-3 * rows[1:]])


def _orthogonal(rows: Tensor) -> Tensor:
    return torch.cat([rows[:1], rows[1:] - rows[1:] @ rows[0].outer(rows[0]) / rows[0].dot(rows[0])])


KINDS = {"random": lambda rows: rows, "opposed": _opposed, "orthogonal": _orthogonal}


def combined(aggregator: Aggregator, rows: Tensor) -> Tensor:
    return aggregator(rows @ rows.T) @ rows


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "decades"), [(torch.float64, 20), (torch.float32, 8)])
@pytest.mark.parametrize("make", CLASSES)
def test_no_auxiliary_gradient_of_any_scale_shortens_the_step_along_the_main_one(make, dtype, decades, kind):
    draw = torch.Generator().manual_seed(0)
    for _ in range(300):
        count, size = (int(torch.randint(low, high, (), generator=draw)) for low, high in ((2, 9), (2, 400)))
        rows = KINDS[kind](torch.randn(count, size, generator=draw, dtype=torch.float64))
        scales = 10 ** (torch.rand(count, 1, generator=draw, dtype=torch.float64) * 2 * decades - decades)
        order = torch.randperm(count, generator=draw)
        rows = (rows * scales)[order].to(dtype)
        main = rows[order.argsort()[0]]
        aggregator = make("0")
        aggregator.set_terms([str(int(index)) for index in order])
        step = combined(aggregator, rows)
        assert step.isfinite().all()
        square = main.double().dot(main.double())
        assert step.double().dot(main.double()) >= square * (1 - PRECISION[dtype])


@pytest.mark.parametrize("make", CLASSES)
def test_auxiliary_gradients_that_agree_give_the_plain_sum(make):
    rows = torch.tensor([[1.0, 1.0], [2.0, 0.0], [0.5, -9.0]])
    aggregator = make("main")
    aggregator.set_terms(TERMS)
    assert aggregator(rows @ rows.T).tolist() == [1.0, 1.0, 1.0]


class Net(torch.nn.Module):
    """Three heads on one layer; the targets of two oppose the third, one of them on a large scale."""

    def __init__(self, criterion: WeightedLoss) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = torch.nn.Linear(3, 4)
        self.heads = torch.nn.ModuleDict({term: torch.nn.Linear(4, 1) for term in TERMS})
        self.criterion = criterion
        self.views = criterion.branch_parameters(self.trunk)

    def loss(self, term: str, h: Tensor, x: Tensor) -> Tensor:
        target = {"left": -300 * x[:, :1], "main": x[:, :1], "right": 5 * x[:, 1:2]}[term]
        return (self.heads[term](h.tanh()) - target).square().mean()

    def backward(self, x: Tensor, at_parameters: bool) -> tuple[Tensor, Tensor]:
        """Returns the gradient at the branch, and that of the weighted main loss."""
        h = self.trunk(x)
        h.retain_grad()
        parts = {term: view(x) for term, view in self.views.items()} if at_parameters else self.criterion.branch(h)
        self.criterion({term: self.loss(term, parts[term], x) for term in TERMS}).backward()
        at = [*self.trunk.parameters()] if at_parameters else [h]
        alone = self.criterion.weights["main"] * self.loss("main", self.trunk(x) if at_parameters else h, x)
        main = torch.autograd.grad(alone, at)
        return torch.cat([each.grad.flatten() for each in at]), torch.cat([each.flatten() for each in main])


@pytest.mark.parametrize("at_parameters", [False, True])
@pytest.mark.parametrize("make", CLASSES)
@pytest.mark.parametrize("scheme", [Equal, GradBalance])
def test_the_guarantee_holds_in_training_at_activations_and_at_parameters(make, scheme, at_parameters):
    net = Net(WeightedLoss(scheme(TERMS), conflict=make("main")))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)
    for step in range(20):
        optimizer.zero_grad()
        x = torch.randn(6, 3, generator=torch.Generator().manual_seed(step))
        gradient, main = net.backward(x, at_parameters)
        assert gradient.dot(main) >= main.dot(main) * (1 - 1e-5)
        optimizer.step()


@pytest.mark.parametrize("make", CLASSES)
def test_a_step_without_the_main_term_gives_the_plain_sum_of_the_auxiliary_ones(make):
    aggregator = make("main")
    aggregator.set_terms(TERMS)
    gramian = torch.tensor([[1.0, 0.0, -2.0], [0.0, 0.0, 0.0], [-2.0, 0.0, 5.0]])
    assert aggregator(gramian).tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("make", CLASSES)
def test_a_main_term_that_is_none_of_the_terms_is_refused_when_the_criterion_is_made(make):
    with pytest.raises(ValueError, match=r"`main` must be one of \['left', 'main', 'right'\], got 'mian' .*'main'"):
        WeightedLoss(Equal(TERMS), conflict=make("mian"))
    with pytest.raises(TypeError, match="`main` must be the name of a term, such as 'main', got 1"):
        make(1)


@pytest.mark.parametrize("make", CLASSES)
def test_an_aggregator_of_one_criterion_is_refused_by_another_with_other_terms(make):
    aggregator = make("main")
    with pytest.raises(RuntimeError, match="give the aggregator to a criterion"):
        aggregator(torch.eye(3))
    WeightedLoss(Equal(TERMS), conflict=aggregator)
    WeightedLoss(Equal(TERMS), conflict=aggregator)
    with pytest.raises(ValueError, match="make an aggregator for each criterion"):
        WeightedLoss(Equal(["main", "left"]), conflict=aggregator)
