r"""Leaves that say what the gradient weighed where a probe was.

A *gauge* is a leaf ``[]`` that a probe takes as a second input. What the probe returns as its gradient is the square of
a norm, and autograd adds it to the gauge as it does for any parameter. The gradients of the terms' gauges are entries
of one row, so that to empty or to read them is one operation.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossbalance.norms import squared_norm
from lossbalance.ranks import world_size


class Part(NamedTuple):
    """What one rank knows of a step: rows ``[terms]``."""

    losses: Tensor
    norms: Tensor
    """The norms of the gradients of the unweighted losses; anything where a term is not present."""
    present: Tensor
    """Not 0 where the rank has the term."""


class Gauges:
    """One gauge per term, one for the total, and the step that their gradients belong to.

    Plain tensors in a plain object: DistributedDataParallel gives every rank the buffers of rank 0, and a module takes
    longer to set an attribute than to compute. All is written in place, so that a CUDA graph finds it where it was.

    Args:
        count: The number of terms.
    """

    def __init__(self, count: int) -> None:
        self._squares = torch.zeros(count)  # the gradients of the terms' gauges
        self._factor = torch.zeros(())  # that of the total's
        self._losses, self._weights = torch.zeros(count), torch.zeros(count)  # of the step; 0: not measured
        self.broken = torch.zeros((), dtype=torch.bool)
        """Whether a loss of the step was not finite, ``[]``."""
        self._pending = [torch.zeros(count), torch.zeros(count)]  # losses, norms for the next step; 0: not seen
        self._renew()

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self._factor.device

    def move(self, device: torch.device) -> None:
        """Moves what is measured to a device, but for what has not been read yet."""
        self._squares, self._factor = self._squares.to(device), self._factor.to(device)
        self._losses, self._weights = self._losses.to(device), self._weights.to(device)
        self.broken = self.broken.to(device)
        self._pending = [row.to(device) for row in self._pending]
        self._renew()

    def branches(self, terms: slice, x: Tensor) -> tuple[Tensor, ...]:
        """Returns ``x`` once for each of the terms, to be used in its branch."""
        gauges = self.terms[terms]
        return _Probe.apply(*gauges, *[x] * len(gauges))

    def begin(self) -> None:
        """Empties the gauges for the step at hand."""
        self._check_connected()
        self._squares.zero_()
        self._factor.zero_()

    def seal(self, total: Tensor, losses: Tensor, weights: Tensor, broken: Tensor) -> Tensor:
        """Notes the step that the gauges will belong to; returns ``total`` with the probe of its factor.

        Args:
            total: The total, ``[]``.
            losses: The losses ``[terms]``, detached.
            weights: Their weights; 0 for a term that is absent, or whose measurement does not count.
            broken: Whether a loss, on any rank, is not finite, ``[]``.
        """
        old = [self._losses, self._weights, self.broken]
        self._losses, self._weights, self.broken = _overwrite(old, [losses, weights, broken])
        self._settled = False
        return _Probe.apply(self.total, total)[0]

    def squares(self) -> Tensor:
        """Returns the squared norms of the last backward pass ``[terms]``, as they arrived: of the weighted losses."""
        self._check_connected()
        return self._squares.clone()

    def measured(self) -> Part:
        """Returns what this rank has measured of the last step."""
        if self._settled:
            nothing = torch.zeros_like(self._losses)
            return Part(nothing, nothing, nothing)
        self._check_connected()
        return Part(self._losses, (self._squares / self._factor).sqrt() / self._weights.abs(), self._weights)

    def settle(self, losses: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
        """Takes what all ranks have measured, and returns what the next step will use: losses and norms.

        After a step that was not finite, that is once more what the step itself was given.
        """
        if not self._settled:
            self._pending = _overwrite(self._pending, self._merge(losses, norms))
            self._settled = True
        losses, norms = self._pending
        return losses, norms

    def pending(self) -> Tensor:
        """Returns what is measured but not yet used, ``[2, terms]``; for a state to be saved."""
        losses, norms = self._pending
        if not self._settled:
            with torch.no_grad():  # a rank that saves alone takes its own part for everybody's
                losses, norms, _ = self.measured()
                losses, norms = self._merge(losses, norms / world_size() ** 0.5)
        return torch.stack([losses, norms.to(losses.dtype)])

    def resume(self, pending: Tensor) -> None:
        """Takes up what :meth:`pending` returned."""
        self._pending = list(pending.to(self.device, copy=True).unbind())
        self._settled = True

    def _merge(self, losses: Tensor, norms: Tensor) -> list[Tensor]:
        return [torch.where(self.broken, old, new) for old, new in zip(self._pending, [losses, norms], strict=True)]

    def _renew(self) -> None:
        self._settled = True  # whether the gauges have been read since the step
        self.terms = [torch.zeros_like(square, requires_grad=True) for square in self._squares]
        self.total = torch.zeros_like(self._factor, requires_grad=True)
        self._connect()

    def _connect(self) -> None:
        """Makes what is measured the gradients of the gauges."""
        self._entries = [*self._squares.unbind(), self._factor]
        for gauge, entry in zip([*self.terms, self.total], self._entries, strict=True):
            gauge.grad = entry

    def _check_connected(self) -> None:
        """Takes up what a backward pass with ``create_graph`` has measured, for it replaces the gradients."""
        gauges = [*self.terms, self.total]
        if torch.compiler.is_compiling() or all(
            g.grad is entry for g, entry in zip(gauges, self._entries, strict=True)
        ):
            return
        said = [torch.zeros_like(gauge) if gauge.grad is None else gauge.grad.detach() for gauge in gauges]
        for entry, square in zip(self._entries, said, strict=True):
            entry.copy_(square)
        self._connect()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores a copy or what was pickled, without the gradients of leaves."""
        vars(self).update(state)
        self._connect()


class _Probe(torch.autograd.Function):
    """The identity on one activation, for n branches; the arguments are n gauges, and n times the activation."""

    # `forward` takes `ctx`: with a `setup_context` of its own, `apply` costs several times as much.
    @staticmethod
    def forward(ctx: Any, *gauges_and_branches: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)  # a branch that nobody took has no gradient
        branches = gauges_and_branches[len(gauges_and_branches) // 2 :]
        # The compiler rebuilds a view that leaves its graph from the base, and so would lose the probe.
        return tuple([x.clone() for x in branches]) if torch.compiler.is_compiling() else branches

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        # Without need of a gauge this is a derivative on the way to a loss, not the backward pass of the step.
        if any(ctx.needs_input_grad[: len(grads)]):
            squares = [None if grad is None else squared_norm(grad) for grad in grads]
        else:
            squares = [None] * len(grads)
        # All branches are of one activation. Autograd adds their gradients up in this order, the last first, and so it
        # would with a node for each, unless something else that uses the activation comes in between.
        return *squares, *grads[::-1]


def _overwrite(old: list[Tensor], new: list[Tensor]) -> list[Tensor]:
    """Writes ``new`` into ``old`` in place, unless the types have changed."""
    old = [was if was.dtype == now.dtype else was.to(now.dtype) for was, now in zip(old, new, strict=True)]
    torch._foreach_copy_(old, new)
    return old
