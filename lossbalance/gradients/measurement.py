"""Measurement of one step: the state shared by its probes and branches."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from lossbalance.gradients.norms import NormAccumulator
from lossbalance.gradients.traced import COLUMNS


class Measurement:
    """One step: the forward passes since the last call of the criterion, and the backward passes of its totals.

    Args:
        count: The number of terms.
        running: The steps whose backward pass is running, shared by all steps of a criterion.
    """

    def __init__(self, count: int, running: "list[Measurement]") -> None:
        self.running = running
        self.entries = [0] * count
        """How many entries each term's gradient has."""
        self.aliases: dict[tuple[int, int], tuple[object, Tensor]] = {}
        """Parameters as they are seen through probes, with the version they had, by term and identity."""
        self.branches: dict[int, tuple[object, list[dict[str, Tensor]]]] = {}
        """The same of a branch at parameters, for each term, by identity of the module."""
        self.anchors: list[Tensor] = []
        """Outputs of the branches that are always 0, which connect them to the total."""
        self.remembered: tuple[Tensor, Mapping[str, Tensor]] | None = None
        """The activation that hooks have branched last, and its parts."""
        self.wrapper: DistributedDataParallel | None = None
        """The wrapper in whose forward pass a probe was met."""
        self.called = False
        """Whether the criterion was called: the next probe opens a new step."""
        self.observed = False
        """Whether the scheme has observed the step: a second call of the criterion does not count twice."""
        self.ended = False
        """Whether a backward pass of its total has ended."""
        self.is_successor = False
        """Whether it continues an ended step: the criterion was called again without a forward pass through a probe."""
        self.expected = False
        """Whether the scheme needs the norms of the backward pass."""
        self.losses: Tensor | None = None
        self.skip_commit: Tensor | None = None
        """Whether a loss is not finite, ``[]``: then the norms are discarded. None if they always are."""
        self.accumulator: NormAccumulator | None = None
        """Where gradients go that arrive; None outside the backward pass that is measured."""
        self.task = -1
        """The number of that backward pass."""
        self.weights: Tensor | None = None
        """The gradient of the total by each loss in that pass, ``[terms]``."""
        self.only: int | None = None
        """The one term whose gradients count, in a pass ahead of the step."""
        self.crossed: list[tuple[int, Tensor]] = []
        """Gradients that have arrived at probes of other terms in such a pass."""
        self.differentiated = False
        """Whether such a pass has met the derivative of a probe."""
        self.norms: Tensor | None = None
        """The norms of the gradients of the weighted losses ``[terms]``, up to a factor, after the backward pass."""
        self.products: Tensor | None = None
        """The inner products of the weighted gradients at the branches ``[terms, terms]``, likewise."""
        self._met = [0] * count  # how many probes of each term a compiled graph has met that takes magnitudes

    def succeed(self) -> "Measurement":
        """Returns a step for one more call, which may reach the probes and branches of this one."""
        step = Measurement(len(self.entries), self.running)
        step.entries, step.anchors, step.wrapper = self.entries, self.anchors, self.wrapper
        step.is_successor = True
        return step

    def receive(self, index: int, gradient: Tensor, leaf: Tensor) -> Tensor:
        """Takes a gradient that arrives at a probe of the term at ``index``, and hands it on."""
        step = self.measured()
        if step is not None and step.accumulator is not None:
            if step.only is None or step.only == index:
                step.accumulator.add(index, gradient)
            else:
                step.crossed.append((index, gradient))
        elif torch.is_grad_enabled():  # a derivative on the way to a loss
            return _Derivative.apply(gradient, leaf, self)
        return gradient

    def receive_columns(self, first: int, gradient: Tensor, scale: Tensor | None, leaf: Tensor) -> Tensor:
        """Takes a gradient whose columns are those of the terms from ``first`` on, and hands it on."""
        step = self.measured()
        if step is not None and step.accumulator is not None:
            if step.only is None or step.only == first:
                step.accumulator.add_columns(first, gradient, scale)
            else:
                step.crossed.append((first, gradient))
        elif torch.is_grad_enabled():
            return _Derivative.apply(gradient, leaf, self)
        return gradient

    def measured(self) -> "Measurement | None":
        """Returns the step that the running backward pass belongs to; None outside of one.

        A total may reach probes of an older forward pass, too, as one that a call of the criterion has logged.
        """
        if self.accumulator is not None:
            return self
        return self.running[0] if len(self.running) == 1 else None

    def column(self, indices: Iterable[int], magnitudes: bool) -> int:
        """Returns where the next probe of the terms in a compiled graph leaves the largest magnitudes."""
        column = max(self._met[index] for index in indices)
        if magnitudes and column == COLUMNS:
            raise ValueError(
                f"a compiled step can tell the largest magnitudes of {COLUMNS} probes of one term apart, and got more: "
                "probe the parameters of a module by `criterion.probe_parameters`, which is one probe, or leave the "
                "step uncompiled."
            )
        for index in indices:
            self._met[index] = column + magnitudes
        return column

    def __getstate__(self) -> dict[str, Any]:
        # A copy keeps what was measured; the graphs of a step cannot be copied.
        return {**vars(Measurement(len(self.entries), [])), "norms": self.norms, "products": self.products}


def is_in_backward() -> bool:
    """Returns whether a backward pass is running, as where a checkpoint recomputes a forward pass."""
    return torch._C._current_graph_task_id() != -1


def version(parameter: Tensor) -> object:
    """Returns what changes when a parameter is written to, so that its aliases are void; None in a compiled graph."""
    return None if torch.compiler.is_compiling() else (parameter._version, parameter.data_ptr())


class Probe(torch.autograd.Function):
    """The identity on ``x``; what arrives there is handed to the step that the probe belongs to.

    The leaf requires a gradient, so that the probe can be reached from a loss, as it must be ahead of
    the first step, and where nothing before it is trained.
    """

    # `forward` takes `ctx`: with a `setup_context` of its own, `apply` costs several times as much.
    @staticmethod
    def forward(ctx: Any, x: Tensor, leaf: Tensor, step: Measurement, index: int) -> Tensor:
        """Returns ``x``."""
        ctx.set_materialize_grads(False)  # where there is no gradient, none is handed on
        ctx.leaf, ctx.step, ctx.index = leaf, step, index
        return x[...]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        """Hands the gradient on."""
        return None if grad is None else ctx.step.receive(ctx.index, grad, ctx.leaf), None, None, None


class ColumnProbe(torch.autograd.Function):
    """The identity on ``x``, whose columns are terms; their norms may be scaled, as by the weights of a last layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, leaf: Tensor, step: Measurement, first: int, scale: Tensor | None) -> Tensor:
        """Returns ``x``."""
        ctx.set_materialize_grads(False)
        ctx.leaf, ctx.step, ctx.first, ctx.scale = leaf, step, first, scale
        return x[...]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None, None, None, None]:
        """Hands the gradient on."""
        handed = None if grad is None else ctx.step.receive_columns(ctx.first, grad, ctx.scale, ctx.leaf)
        return handed, None, None, None, None


class _Derivative(torch.autograd.Function):
    """The identity on the gradient of what was probed, where it is differentiated: tells if a loss depends on it."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, leaf: Tensor, step: Measurement) -> Tensor:
        ctx.step = step
        return gradient[...]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        step = ctx.step.measured() or ctx.step
        step.differentiated = True
        return grad, None, None
