"""Measurement of one step: the state shared by its probes."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from lossbalance.gradients.norms import NormAccumulator
from lossbalance.gradients.traced import COLUMNS


class Measurement:
    """One step: its probes hand on to it what arrives at them.

    Args:
        count: The number of terms.
        previous: The step before.
    """

    def __init__(self, count: int, previous: "Measurement | None" = None) -> None:
        self.entries = [0] * count
        """How many entries each term's gradient has."""
        self.aliases: dict[tuple[int, int], Tensor] = {}
        """Parameters as they are seen through probes while the step is open, by term and identity."""
        self.wrapper: DistributedDataParallel | None = None
        """The wrapper in whose forward pass a probe was met."""
        self.accumulator: NormAccumulator | None = None
        """Where gradients go that arrive; None outside the backward pass that is measured."""
        self.only: int | None = None
        """The one term whose gradients count, in a pass ahead of the step."""
        self.differentiated = False
        """Whether such a pass has met the derivative of a probe."""
        self.previous = previous
        self._met = [0] * count  # how many probes of each term a compiled graph has met that takes magnitudes
        self.losses: Tensor | None = None
        self.non_finite: Tensor | None = None
        self.norms: Tensor | None = None
        """The norms of the gradients of the weighted losses ``[terms]``, up to a factor, after the backward pass."""

    def close(self, losses: Tensor, non_finite: Tensor | None) -> None:
        """Notes the step's losses, and whether one is not finite; None if the norms are not to be committed."""
        self.losses, self.non_finite = losses, non_finite
        self.previous = self.wrapper = None
        self.aliases.clear()

    def receive(self, index: int, gradient: Tensor, leaf: Tensor) -> Tensor:
        """Takes a gradient that arrives at a probe of the term at ``index``, and hands it on."""
        accumulator = self.running
        if accumulator is not None:
            if self.only is None or self.only == index:
                accumulator.add(index, gradient)
        elif torch.is_grad_enabled():  # a derivative on the way to a loss
            return _Derivative.apply(gradient, leaf, self)
        return gradient

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

    @property
    def running(self) -> NormAccumulator | None:
        """The accumulator of the running backward pass, also in what a checkpoint recomputes."""
        if self.accumulator is None and self.previous is not None:
            return self.previous.accumulator
        return self.accumulator


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


class _Derivative(torch.autograd.Function):
    """The identity on the gradient of what was probed, where it is differentiated: tells if a loss depends on it."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, leaf: Tensor, step: Measurement) -> Tensor:
        ctx.step = step
        return gradient[...]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        ctx.step.differentiated = True
        return grad, None, None
