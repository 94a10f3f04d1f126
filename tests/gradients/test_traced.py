"""Compiled steps: how often they are traced, and what they report."""

import warnings

import pytest
import torch
from torch import Tensor

from lossbalance import WeightedLoss
from lossbalance.weighting import GradBalance
from tests.helpers.compiler import skip_where_the_compiler_cannot_differentiate


@pytest.mark.parametrize("differentiate", [Tensor.backward, lambda total: total.backward(inputs=[X[-1]])])
def test_a_step_is_traced_twice_at_most_and_one_that_measures_nothing_is_reported(differentiate):
    skip_where_the_compiler_cannot_differentiate()
    torch._dynamo.reset()
    criterion, traced = WeightedLoss(GradBalance(["a", "b"])), []

    def total(x: Tensor) -> Tensor:
        a, b = criterion.probe("a", x), criterion.probe("b", x)
        return criterion({"a": (a * torch.tensor([3.0, 4.0])).sum(), "b": b.square().sum()})

    def count(graph: torch.fx.GraphModule, inputs: list) -> object:
        traced.append(graph)
        return torch._dynamo.backends.debugging.aot_eager(graph, inputs)

    step = torch.compile(total, fullgraph=True, backend=count)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number in range(5):
            X.append(torch.full((2,), number + 1.0, requires_grad=True))
            differentiate(step(X[-1]))
    reports = [str(warning.message) for warning in caught if "met no probe" in str(warning.message)]
    measures = differentiate is Tensor.backward
    assert (reports == []) == measures
    assert (criterion.weights["b"].item() < 0.1) == measures
    if measures:
        assert len(traced) == 2  # the first step, which is measured ahead, and all others


X: list[Tensor] = []
