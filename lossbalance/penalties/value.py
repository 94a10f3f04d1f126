"""Penalty value: one node of the autograd graph for all penalized parameters."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from lossbalance.penalties.dtensor import sum_over_parts, to_dtensor, upcast
from lossbalance.penalties.selection import Coefficients

Measure = Callable[..., Tensor]
Differentiate = Callable[..., list[Tensor]]
Shape = list[tuple[Coefficients, tuple[Any, ...], int]]
"""The factors, the further arguments and the number of tensors of each group of parameters."""


class PenaltyValue(torch.autograd.Function):
    """Computes the penalty of all groups, as one node of the autograd graph."""

    @staticmethod
    def forward(measure: Measure, gradients: Differentiate, shape: Shape, *weights: Tensor) -> Tensor:
        """Returns the sum over the groups, ``[]``."""
        values = [
            sum_over_parts(measure(upcast(group), factors, *extras), group[0])
            for factors, extras, group in _split(shape, weights)
        ]
        return sum(values[1:], start=values[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Saves the weights."""
        _, ctx.differentiate, ctx.shape, *weights = inputs
        ctx.save_for_backward(*weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients by the weights, as ``gradients`` computes them, times ``grad``."""
        gradients: list[Tensor] = []
        for factors, extras, weights in _split(ctx.shape, ctx.saved_tensors):
            found = ctx.differentiate(upcast(weights), [factor * grad for factor in factors], *extras)
            gradients += [to_dtensor(part.to(like.dtype), like) for part, like in zip(found, weights, strict=True)]
        return None, None, None, *gradients


def _split(shape: Shape, weights: Sequence[Tensor]) -> Iterator[tuple[Coefficients, tuple[Any, ...], list[Tensor]]]:
    remaining = iter(weights)
    return ((factors, extras, list(islice(remaining, count))) for factors, extras, count in shape)
