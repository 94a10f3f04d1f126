"""Probes in a compiled graph: measurements as gradients of leaf tensors.

A compiled graph hands out of its backward pass nothing but gradients of its inputs. So what a probe measures there is
the gradient of a leaf that stands for it: autograd adds it to the leaf's ``grad``, which is read when the backward
pass ends. Squares and sums may be added; the largest magnitude of each probe has a column of its own. A hook on a
second leaf marks where the pass begins.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lossbalance._utils.warn import warn_user

COLUMNS = 8  # probes of one term whose largest magnitudes a step can tell apart


class MeasurementLeaves:
    """The leaves of K terms.

    Args:
        count: K.
        device: Where they are.
        on_start: Called with the gradient of the total by each loss ``[terms]``, when a backward pass begins.
    """

    def __init__(self, count: int, device: torch.device, on_start: Callable[[Tensor], None]) -> None:
        self.count = count
        self.sizes = torch.zeros(count, 2 + COLUMNS, device=device, requires_grad=True)
        """Its gradient is what the probes measure: squared norms, sums of magnitudes, the largest magnitude of each."""
        self.products = torch.zeros(count, count, device=device, requires_grad=True)
        """Its gradient is the matrix of inner products at a branch."""
        self.weights = torch.zeros(count, device=device, requires_grad=True)
        """Its gradient is that of the total by each loss."""
        self.weights.register_hook(on_start)

    def attach(self, tensors: Sequence[Tensor], index: int, column: int, magnitudes: bool) -> tuple[Tensor, ...]:
        """Returns the tensors, with a probe of the term at ``index`` on all of them."""
        return _TracedProbe.apply(self.sizes, index, column, magnitudes, *tensors)

    def clear(self) -> None:
        """Forgets what has been measured."""
        self.sizes.grad = None

    def take(self) -> Sequence[Tensor]:
        """Returns what has been measured since the last time, ``[3]`` for each term; empty if nothing was."""
        measured, self.sizes.grad = self.sizes.grad, None
        return [] if measured is None else sizes_of(measured).unbind()


def sizes_of(gradient: Tensor) -> Tensor:
    """Returns norms, largest magnitudes and sums of magnitudes, ``[terms, 3]``, from the gradient of the leaf."""
    return torch.stack([gradient[:, 0].sqrt(), gradient[:, 2:].amax(dim=1), gradient[:, 1]], dim=1)


def spread(squares: Tensor, largest: Tensor, sums: Tensor, column: int) -> Tensor:
    """Returns what is measured of some terms, ``[terms]`` each, as rows of the gradient of the leaf."""
    columns = pad(largest.unsqueeze(1), (column, COLUMNS - 1 - column))
    return torch.cat([torch.stack([squares, sums], dim=1), columns], dim=1)


class _TracedProbe(torch.autograd.Function):
    """The identity on the tensors; the gradient of the leaf is what is measured of theirs."""

    @staticmethod
    def forward(
        ctx: Any, leaf: Tensor, index: int, column: int, magnitudes: bool, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.index, ctx.after = index, leaf.size(0) - index - 1
        ctx.column, ctx.magnitudes = column, magnitudes
        # The compiler rebuilds a view that leaves its graph from the base, and loses the probe.
        return tuple(x.clone() for x in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        wide = [
            (torch.view_as_real(grad) if grad.is_complex() else grad).float() for grad in gradients if grad is not None
        ]
        if not wide:
            return None, None, None, None, *gradients
        squares = torch.stack([grad.square().sum() for grad in wide]).sum(0, keepdim=True)
        largest = sums = torch.zeros_like(squares)
        if ctx.magnitudes:
            largest = torch.stack([grad.abs().max() for grad in wide]).amax(0, keepdim=True)
            sums = torch.stack([grad.abs().sum() for grad in wide]).sum(0, keepdim=True)
        row = pad(spread(squares, largest, sums, ctx.column), (0, 0, ctx.index, ctx.after))
        return row, None, None, None, *gradients


def trace_autograd(allowed: bool) -> int:
    """Lets the compiler, while it traces, trace ``torch.autograd.grad`` too, in versions that can."""
    config = torch._dynamo.config
    if hasattr(config, "trace_autograd_ops"):
        config.trace_autograd_ops = allowed
    return 0


trace_autograd._dynamo_marked_constant = True  # type: ignore[attr-defined]  # runs now; its decorator costs an import


def warn_unmeasured() -> int:
    """Warns of a step that measured nothing; in a compiled graph while it is traced, so once."""
    warn_user(
        "the backward pass of the last total has met no probe, so nothing was measured and the weights stay as they "
        "are: let each forward pass go through the probes, and differentiate the total up to where they are; that of a "
        "compiled step by `backward()` without `inputs`, not by `torch.autograd.grad`. A step that only evaluates "
        "belongs in `criterion.eval()` or `criterion.frozen()`."
    )
    return 0


warn_unmeasured._dynamo_marked_constant = True  # type: ignore[attr-defined]
