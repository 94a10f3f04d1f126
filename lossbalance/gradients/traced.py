"""How a compiled graph measures.

A compiled graph hands out of its backward pass nothing but gradients of its inputs. So what a probe measures there is
the gradient of a leaf that stands for it: autograd adds it to the leaf's ``grad``, which is read when the backward
pass ends. Where the pass begins, autograd tells by a hook on a second leaf.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad


class MeasurementLeaves:
    """The leaves of K terms.

    Args:
        count: K.
        device: Where they are.
        enter: Called when the backward pass of a total begins, with the gradient of the total by each loss ``[terms]``.
    """

    def __init__(self, count: int, device: torch.device, enter: Callable[[Tensor], None]) -> None:
        self.count = count
        self.sizes = torch.zeros(count, 3, device=device, requires_grad=True)
        """Its gradient is what the probes measure: squared norms, largest magnitudes, sums of magnitudes."""
        self.products = torch.zeros(count, count, device=device, requires_grad=True)
        """Its gradient is the matrix of inner products at a branch."""
        self.weights = torch.zeros(count, device=device, requires_grad=True)
        """Its gradient is that of the total by each loss."""
        self.weights.register_hook(enter)

    def attach(self, x: Tensor, index: int, magnitudes: bool) -> Tensor:
        """Returns ``x``, with a probe of the term at ``index``."""
        return _TracedProbe.apply(x, self.sizes, index, magnitudes)

    def clear(self) -> None:
        """Forgets what has been measured."""
        self.sizes.grad = None

    def take(self) -> Sequence[Tensor]:
        """Returns what has been measured since the last time, ``[3]`` for each term; empty if nothing was."""
        measured, self.sizes.grad = self.sizes.grad, None
        return [] if measured is None else sizes_of(measured).unbind()


def sizes_of(gradient: Tensor) -> Tensor:
    """Returns norms, largest magnitudes and sums of magnitudes, ``[terms, 3]``, from the gradient of the leaf."""
    return torch.cat([gradient[:, :1].sqrt(), gradient[:, 1:]], dim=1)


class _TracedProbe(torch.autograd.Function):
    """The identity on ``x``; the gradient of the leaf is what is measured of that of ``x``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, leaf: Tensor, index: int, magnitudes: bool) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.index, ctx.after, ctx.magnitudes = index, leaf.size(0) - index - 1, magnitudes
        return x.clone()  # the compiler rebuilds a view that leaves its graph from the base, and loses the probe

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
        if grad is None:
            return None, None, None, None
        wide = (torch.view_as_real(grad) if grad.is_complex() else grad).float()
        sizes = [wide.square().sum()]
        if ctx.magnitudes:
            sizes += [wide.abs().max(), wide.abs().sum()]
        return grad, pad(torch.stack(sizes).unsqueeze(0), (0, 3 - len(sizes), ctx.index, ctx.after)), None, None


def trace_autograd(allowed: bool) -> int:
    """Lets the compiler, while it traces, trace ``torch.autograd.grad`` too, in versions that can."""
    config = torch._dynamo.config
    if hasattr(config, "trace_autograd_ops"):
        config.trace_autograd_ops = allowed
    return 0


trace_autograd._dynamo_marked_constant = True  # type: ignore[attr-defined]  # runs now; its decorator costs an import
