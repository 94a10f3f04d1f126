r"""What the gradient weighed where a probe was: a row with an entry for each term, and one for the total.

A probe hands the gradient on as it is and adds the square of its norm to its entry, in one of two ways:

- A *gauge* is a leaf ``[]`` that the probe takes as a second input. What the probe returns as the gauge's gradient is
  the square of a norm. So a loss can be differentiated by a gauge as by anything else, ahead of the backward pass; and
  in a compiled graph autograd adds the square to the gauge's ``grad``, which is the entry.
- A hook on a view, a node of autograd's own, costs less: to enter a node that is written in Python takes longer than
  the norm does. Nothing can be differentiated by a hook. It dies with the graph.

Only the backward pass of a total counts, and no derivative on the way to a loss: a hook on the total, which such a pass
enters first, tells which one it is. In a compiled graph the total has a gauge instead.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import _current_graph_task_id, _will_engine_execute_node
from torch.autograd.graph import get_gradient_edge

from lossbalance._utils.distributed import world_size
from lossbalance.gradients.norms import squared_norm, squared_norms


class Part(NamedTuple):
    """What one rank knows of a step: rows ``[terms]``."""

    losses: Tensor
    norms: Tensor
    """The norms of the gradients of the unweighted losses; anything where a term is not present."""
    present: Tensor
    """Not 0 where the rank has the term."""


class Gauges:
    """One gauge per term, one for the total, and the step that their entries belong to.

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
        self._pass = -1  # the last backward pass of a marked total, by number
        self.differentiates = False
        """Whether losses are being differentiated by the gauges."""
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

    def by_gauge(self, place: int, x: Tensor) -> Tensor:
        """Returns ``x``, with a gauge for the term at ``place``."""
        # The backward pass of what a checkpoint runs again is another one, inside that of the total.
        inside = torch.compiler.is_compiling() or (_current_graph_task_id() != -1 and self.counts())
        return _Probe.apply(self.leaves[place], x, None if inside else self)

    def by_hook(self, place: int, x: Tensor) -> Tensor:
        """Returns ``x``, which must require a gradient, with a hook for the term at ``place``."""
        branch = x[...]
        # What is changed in place gets another node: so that is refused, as it is for the output of a `Function`.
        torch._C._autograd._set_creation_meta(branch, torch._C._autograd.CreationMeta.IN_CUSTOM_FUNCTION)
        return _hook(branch, self._hooks[place])

    def mark(self, total: Tensor) -> Tensor:
        """Returns ``total``, whose backward pass is the one to be measured, and its factor too."""
        if not total.requires_grad:
            return total
        if torch.compiler.is_compiling():
            return self.by_gauge(self.count, total)
        return _hook(total.clone(), self._enter)  # no view, so that users may divide it in place

    def counts(self) -> bool:
        """Returns whether the backward pass under way is that of a marked total."""
        task = _current_graph_task_id()
        if task != self._pass and _is_reached(self.leaves[-1]):  # of a total that was compiled
            self._pass = task
        return task == self._pass

    def ahead(self, losses: Sequence[Tensor | None], factors: Sequence[float]) -> Tensor:
        """Returns the squared norms ``[terms]`` ahead of the backward pass, by :func:`squared_norms`."""
        self.differentiates = True
        try:
            return squared_norms(losses, [[leaf] for leaf in self.leaves[:-1]], factors, read=Tensor.detach)
        finally:
            self.differentiates = False

    def begin(self) -> None:
        """Empties the row for the step at hand."""
        self._row.zero_()

    def seal(self, total: Tensor, losses: Tensor, weights: Tensor, broken: Tensor) -> Tensor:
        """Notes the step that the gauges will belong to; returns ``total``, marked.

        Args:
            total: The total, ``[]``.
            losses: The losses ``[terms]``, detached.
            weights: Their weights; 0 for a term that is absent, or whose measurement does not count.
            broken: Whether a loss, on any rank, is not finite, ``[]``.
        """
        old = [self._losses, self._weights, self.broken]
        self._losses, self._weights, self.broken = _overwrite(old, [losses, weights, broken])
        self._settled = False
        return self.mark(total)

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
        self.leaves = [torch.zeros_like(entry, requires_grad=True) for entry in self._row]
        """The gauges: one for each term, and the last for the total."""
        self._connect()

    def _connect(self) -> None:
        """Lets gauges and hooks lead to the entries of the row."""
        self._squares, self._factor = self._row[:-1], self._row[-1]
        for gauge, entry in zip(self.leaves, self._row.unbind(), strict=True):
            gauge.grad = entry
        self._hooks = [partial(self._add, entry) for entry in self._squares.unbind()]

    def _enter(self, grads: tuple[Tensor | None, ...]) -> None:
        self._pass = _current_graph_task_id()
        self._add(self._factor, grads)

    def _add(self, entry: Tensor, grads: tuple[Tensor | None, ...]) -> None:
        """Adds the squared norm of what arrives at a node to ``entry``, in the backward pass of a marked total."""
        if grads[0] is not None and self.counts():
            entry.add_(squared_norm(grads[0]))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores a copy or what was pickled, without the gradients of leaves."""
        vars(self).update(state, _pass=-1)
        self._connect()


class _Probe(torch.autograd.Function):
    """The identity on the second argument; the first is the gauge, the third knows which passes count, or all do."""

    # `forward` takes `ctx`: with a `setup_context` of its own, `apply` costs several times as much.
    @staticmethod
    def forward(ctx: Any, gauge: Tensor, x: Tensor, gauges: Gauges | None) -> Tensor:
        ctx.set_materialize_grads(False)  # where there is no gradient, none is handed on
        if torch.compiler.is_compiling():
            return x.clone()  # the compiler rebuilds a view that leaves its graph from the base, and loses the probe
        ctx.gauge, ctx.gauges = gauge, gauges
        return x[...]  # as by hook, for a checkpoint that keeps the results of some operations

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        if grad is None:
            return None, None, None
        if torch.compiler.is_compiling() or ctx.gauges is None or ctx.gauges.differentiates:
            return squared_norm(grad), grad, None
        if ctx.gauges.counts():
            ctx.gauge.grad.add_(squared_norm(grad))
        return None, grad, None


def _hook(x: Tensor, hook: Callable[[tuple[Tensor | None, ...]], None]) -> Tensor:
    """Returns ``x``, the output of a node of autograd's own, with a hook on what arrives there."""
    node: Any = x.grad_fn
    node.register_prehook(hook)
    return x


def _is_reached(leaf: Tensor) -> bool:
    """Returns whether the backward pass under way adds to the gradient of ``leaf``."""
    return _will_engine_execute_node(get_gradient_edge(leaf).node)


def _overwrite(old: list[Tensor], new: list[Tensor]) -> list[Tensor]:
    """Writes ``new`` into ``old`` in place, unless the types have changed."""
    old = [was if was.dtype == now.dtype else was.to(now.dtype) for was, now in zip(old, new, strict=True)]
    torch._foreach_copy_(old, new)
    return old
