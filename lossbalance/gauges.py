r"""Leaves that say what the gradient weighed where a probe was.

A *gauge* is a leaf ``[branches]`` that a probe takes as a second input. What the probe returns as its gradient are
squares of norms, and autograd adds them to the gauge as it does for any parameter. The gradients of all gauges are
parts of one row, so that to empty or to read them is one operation.
"""

from collections.abc import Callable
from operator import itemgetter
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
        self.count = count
        """The number of terms."""
        self._row = torch.zeros(count + 1)  # the gradients of the gauges: of the terms, and of the total
        self._losses, self._weights = torch.zeros(count), torch.zeros(count)  # of the step; 0: not measured
        self.broken = torch.zeros((), dtype=torch.bool)
        """Whether a loss of the step was not finite, ``[]``."""
        self._pending = [torch.zeros(count), torch.zeros(count)]  # losses, norms for the next step; 0: not seen
        self._renew()

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self._row.device

    def move(self, device: torch.device) -> None:
        """Moves what is measured to a device, but for what has not been read yet."""
        self._row = self._row.to(device)
        self._losses, self._weights = self._losses.to(device), self._weights.to(device)
        self.broken = self.broken.to(device)
        self._pending = [row.to(device) for row in self._pending]
        self._renew()

    def branches(self, start: int, stop: int, x: Tensor) -> tuple[Tensor, ...]:
        """Returns ``x`` once for each of the terms from ``start`` to ``stop``, to be used in its branch."""
        gauge = self._gauges.get((start, stop))
        if gauge is None:
            gauge = self._place(start, stop)
        return _Probe.apply(gauge, *[x] * (stop - start))

    def of(self, place: int) -> list[tuple[Tensor, Callable[[Tensor], Tensor]]]:
        """Returns the gauges of the term at ``place``, and what takes the term's entry out of the gradient of each."""
        return [
            (gauge, itemgetter(place - start)) for (start, stop), gauge in self._gauges.items() if start <= place < stop
        ]

    def begin(self) -> None:
        """Empties the gauges for the step at hand."""
        self._row.zero_()

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
        return self.branches(self.count, self.count + 1, total)[0]

    def squares(self) -> Tensor:
        """Returns the squared norms of the last backward pass ``[terms]``, as they arrived: of the weighted losses."""
        return self._squares.clone()

    def measured(self) -> Part:
        """Returns what this rank has measured of the last step."""
        if self._settled:
            nothing = torch.zeros_like(self._losses)
            return Part(nothing, nothing, nothing)
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
        self._gauges: dict[tuple[int, int], Tensor] = {}  # by the part of the row that is their gradient
        self._connect()
        for place in range(self.count + 1):
            self._place(place, place + 1)

    def _place(self, start: int, stop: int) -> Tensor:
        """Returns a gauge for the terms from ``start`` to ``stop``."""
        gauge = torch.zeros_like(self._row[start:stop], requires_grad=True)
        gauge.grad = self._row[start:stop]
        return self._gauges.setdefault((start, stop), gauge)

    def _connect(self) -> None:
        self._squares, self._factor = self._row[:-1], self._row[-1]
        for (start, stop), gauge in self._gauges.items():
            gauge.grad = self._row[start:stop]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores a copy or what was pickled, without the gradients of leaves."""
        vars(self).update(state)
        self._connect()


class _Probe(torch.autograd.Function):
    """The identity on one activation; the arguments are the gauge, and the activation once for each of its entries."""

    # `forward` takes `ctx`: with a `setup_context` of its own, `apply` costs several times as much.
    @staticmethod
    def forward(ctx: Any, gauge: Tensor, *branches: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)  # a branch that nobody took has no gradient
        if torch.compiler.is_compiling():
            # The compiler rebuilds a view that leaves its graph from the base, and so would lose the probe.
            return tuple([x.clone() for x in branches])
        ctx.gauge = gauge
        return branches

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        squares = _squared_norms(grads)
        if squares is not None and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # With `create_graph`, autograd would put a new tensor in the place of the gauge's gradient. It adds nothing
            # at all if this is a derivative on the way to a loss, and not the backward pass of the step.
            if torch._C._will_engine_execute_node(ctx.next_functions[0][0]):
                ctx.gauge.grad.add_(squares)
            squares = None
        # All branches are of one activation. Autograd adds their gradients up in this order, the last first, and so it
        # would with a node for each, unless something else that uses the activation comes in between.
        return squares, *grads[::-1]


def _squared_norms(grads: tuple[Tensor | None, ...]) -> Tensor | None:
    """Returns the squared norm of each gradient ``[branches]``, 0 where there is none; None if no branch has one."""
    squares = [None if grad is None else squared_norm(grad) for grad in grads]
    found = next((square for square in squares if square is not None), None)
    if found is None:
        return None
    return torch.stack([torch.zeros_like(found) if square is None else square for square in squares])


def _overwrite(old: list[Tensor], new: list[Tensor]) -> list[Tensor]:
    """Writes ``new`` into ``old`` in place, unless the types have changed."""
    old = [was if was.dtype == now.dtype else was.to(now.dtype) for was, now in zip(old, new, strict=True)]
    torch._foreach_copy_(old, new)
    return old
