r"""Gradient norms, in one backward pass.

A probe is the identity in the forward pass. In the backward pass it hands the gradient on unchanged and leaves the
square of its norm as the "gradient" of a second input, the *gauge* of its term: a leaf ``[]`` that autograd fills as
it fills the gradient of any parameter. So the one ordinary ``backward()`` measures every term, with no hook and
nothing kept alive.

What arrives at a probe is the gradient of the *weighted* term, times whatever the total was multiplied by before
``backward()``: a gradient scaler's factor, one over the number of accumulated batches. A last probe, at the total,
measures that factor :math:`s`, so that the norm of the unweighted loss can be told:

.. math:: n_i = \frac{\|g_i\|}{w_i \, |s|}.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lossbalance.checks import check_word
from lossbalance.ranks import world_size


class Part(NamedTuple):
    """What one rank knows of a step: rows ``[terms]``."""

    losses: Tensor
    norms: Tensor
    """The norms of the gradients of the unweighted losses; anything where a term is not present."""
    present: Tensor
    """Whether the rank has the term."""


class Probes(nn.Module):
    """The gauges of K terms, and what has been measured with them but not yet used.

    Args:
        terms: Names of the losses, in the order of the row.
    """

    def __init__(self, terms: Sequence[str]) -> None:
        super().__init__()
        self.terms = tuple(terms)
        self._places = {term: i for i, term in enumerate(self.terms)}
        self.placed: set[str] = set()  # terms that a probe was placed for, if they met it or not
        self.probed: set[str] = set()  # terms that have met a probe
        self.known: set[str] = set()  # terms whose norm has been measured
        self._half = False  # whether a probe has met an activation of fp16
        # Plain tensors, for DistributedDataParallel gives every rank the buffers of rank 0.
        self._gauges = _new_gauges(len(self.terms) + 1, torch.device("cpu"))  # one per term, one for the total
        # Written in place, so that a CUDA graph finds them where they were.
        self._step = torch.zeros(2, len(self.terms))  # losses, weights: what the gauges belong to; 0: not measured
        self.broken = torch.zeros((), dtype=torch.bool)  # whether a loss of that step was not finite
        self._pending = torch.zeros(2, len(self.terms))  # losses, norms: what the next step will use; 0: not seen
        self._settled = True  # whether the gauges have been read since the step

    @property
    def device(self) -> torch.device:
        """Where the gauges are, and the losses must be."""
        return self._pending.device

    def probe(self, term: str, x: Tensor) -> Tensor:
        """Returns ``x``; the backward pass adds the square of its gradient's norm to the gauge of ``term``."""
        if term not in self._places:
            check_word("term", term, self.terms)
        if not x.is_floating_point():
            raise TypeError(f"`x` must be an activation in floating point, got {x.dtype}: probe what enters a head.")
        if not (self.training and torch.is_grad_enabled()):
            return x
        if x.device != self._pending.device:
            raise ValueError(f"`x` is on {x.device}, the criterion on {self.device}: move it with `.to(device)`.")
        self.probed.add(term)
        if x.dtype == torch.float16:
            self._half = True
        return _Probe.apply(x, self._gauges[self._places[term]])

    def probe_inputs(self, modules: Mapping[str, nn.Module]) -> "ProbeHandle":
        """Probes the activations that enter each module, until the handle's ``remove()``."""
        for term in modules:
            check_word("modules", term, self.terms)
        self.placed.update(modules)
        return ProbeHandle(
            module.register_forward_pre_hook(partial(_probe_arguments, self, term), with_kwargs=True)
            for term, module in modules.items()
        )

    def measure(self, losses: Sequence[Tensor | None]) -> Tensor:
        """Returns the norms ``[terms]`` at the probes by one partial backward pass per loss."""
        _trace_autograd(True)
        factors = (1.0, 2.0**8, 2.0**16) if self._half else (1.0,)  # small gradients vanish in fp16
        squares = squared_norms(losses, [[gauge] for gauge in self._gauges[:-1]], factors, read=Tensor.detach)
        _trace_autograd(False)
        return squares.sqrt()

    def learn(self, terms: Iterable[str], finite: Tensor) -> None:
        """Notes that the norms of ``terms`` have been measured, unless they were not finite: then they will be again.

        Asks the device, once in a training for each term; inside a compiled graph it trusts.
        """
        if torch.compiler.is_compiling() or finite.tolist():
            self.known.update(terms)

    def begin(self) -> None:
        """Empties the gauges for the step at hand."""
        squares = []
        for gauge in self._gauges:
            gauge.grad = torch.zeros_like(gauge) if gauge.grad is None else gauge.grad
            squares.append(gauge.grad)
        torch._foreach_zero_(squares)

    def seal(self, total: Tensor, losses: Tensor, weights: Tensor, measures: bool, broken: Tensor) -> Tensor:
        """Notes the step that the gauges will belong to; returns ``total`` with the probe of its factor.

        Args:
            total: The total, ``[]``.
            losses: The losses ``[terms]``, detached.
            weights: Their weights; 0 for an absent term.
            measures: Whether what is measured in this step counts.
            broken: Whether a loss, on any rank, is not finite, ``[]``.
        """
        step = torch.stack([losses, weights if measures else torch.zeros_like(weights)])
        if step.dtype != self._step.dtype:
            self._step = self._step.to(step.dtype)
        self._step.copy_(step)
        self.broken.copy_(broken)
        self._settled = False
        return _Probe.apply(total, self._gauges[-1])

    def squares(self) -> Tensor:
        """Returns the squared norms of the last backward pass, ``[terms + 1]``, as they arrived: weighted."""
        return torch.stack([gauge.detach() if gauge.grad is None else gauge.grad for gauge in self._gauges])

    def squares_at_probes(self) -> Tensor:
        """Returns those of the terms, ``[terms]``; nan for one that no probe was placed for."""
        squares = self.squares()[:-1]
        if len(self.probed) == len(self.terms):
            return squares
        probed = to_device([term in self.probed for term in self.terms], self.device)
        return squares.where(probed, torch.nan)

    def measured(self) -> Part:
        """Returns what this rank has measured of the last step."""
        losses, weights = self._step.unbind()
        if self._settled:
            nothing = torch.zeros_like(losses)
            return Part(nothing, nothing, nothing > 0)
        squares = self.squares()
        norms = (squares[:-1] / squares[-1]).sqrt() / weights.abs()
        return Part(losses, norms, weights != 0)

    def settle(self, losses: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
        """Takes what all ranks have measured, and returns what the next step will use: losses and norms.

        After a step that was not finite, that is once more what the step itself was given.
        """
        if not self._settled:
            pending = self._merge(losses, norms)
            if pending.dtype != self._pending.dtype:
                self._pending = self._pending.to(pending.dtype)
            self._pending.copy_(pending)
            self._settled = True
        losses, norms = self._pending.unbind()
        return losses, norms

    def get_extra_state(self) -> Tensor:
        """What is measured but not yet used, and which terms are known: ``[3, terms]``."""
        pending = self._pending
        if not self._settled:
            with torch.no_grad():  # a rank that saves alone takes its own part for everybody's
                losses, norms, _ = self.measured()
                pending = self._merge(losses, norms / world_size() ** 0.5)
        known = pending.new_tensor([term in self.known for term in self.terms])
        return torch.cat([pending, known.unsqueeze(0)])

    def set_extra_state(self, state: Tensor) -> None:
        """Takes up what :meth:`get_extra_state` returned."""
        self._settled = True
        self._pending = state[:2].to(self.device, copy=True)
        self.known = {term for term, known in zip(self.terms, state[2].tolist(), strict=True) if known}

    def _merge(self, losses: Tensor, norms: Tensor) -> Tensor:
        measured = torch.stack([losses, norms.to(losses.dtype)])
        return torch.where(self.broken, self._pending.to(losses.dtype), measured)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Probes":
        device = fn(self._pending).device
        if device != self.device:
            self._gauges = _new_gauges(len(self._gauges), device)
            self._step, self.broken = self._step.to(device), self.broken.to(device)
            self._pending = self._pending.to(device)
            self._settled = True
        return super()._apply(fn, recurse)


class ProbeHandle:
    """The probes that :meth:`Probes.probe_inputs` has placed."""

    def __init__(self, hooks: Iterable[RemovableHandle]) -> None:
        self._hooks = list(hooks)

    def remove(self) -> None:
        """Takes the probes away; once is enough, twice does no harm."""
        for hook in self._hooks:
            hook.remove()


def to_device(flags: list[bool], device: torch.device) -> Tensor:
    """Returns the flags as a tensor, without waiting for the device."""
    return torch.tensor(flags).to(device, non_blocking=True)


def squared_norm(tensor: Tensor) -> Tensor:
    """Returns the square of the L2 norm ``[]``, detached, in fp32 or wider."""
    flat = tensor.detach().reshape(-1)
    if flat.dtype.itemsize < 4:
        flat = flat.float()
    return flat.dot(flat)


def squared_norms(
    losses: Sequence[Tensor | None],
    inputs: Sequence[Sequence[Tensor]],
    factors: Sequence[float] = (1.0,),
    read: Callable[[Tensor], Tensor] = squared_norm,
) -> Tensor:
    """Returns the squared norm of each loss's gradient, ``[terms]``, by ``torch.autograd.grad``; 0 where there is none.

    Args:
        losses: The losses, or None for an absent term.
        inputs: What the gradient of each loss is taken with respect to, all together.
        factors: Multiples of the loss to try; the largest whose gradient is finite and not zero counts.
        read: The squared norm that the gradient of one input stands for.
    """
    squares = []
    for loss, wanted in zip(losses, inputs, strict=True):
        square = torch.zeros((), device=wanted[0].device)
        for factor in factors:
            if loss is None or not loss.requires_grad:
                break
            seed = torch.full_like(loss, factor)
            grads = torch.autograd.grad(loss, wanted, seed, retain_graph=True, allow_unused=True)
            found = sum((read(grad) for grad in grads if grad is not None), start=torch.zeros_like(square)) / factor**2
            square = torch.where(found.isfinite() & (found > 0), found, square) if len(factors) > 1 else found
        squares.append(square)
    return torch.stack(squares)


class _Probe(torch.autograd.Function):
    # `forward` takes `ctx`: with a `setup_context` of its own, `apply` costs several times as much.
    @staticmethod
    def forward(ctx: Any, x: Tensor, gauge: Tensor) -> Tensor:
        # The compiler rebuilds a view that leaves its graph from the base, and so would lose the probe.
        return x.clone() if torch.compiler.is_compiling() else x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        # Without need of the gauge this is a derivative on the way to a loss, not the backward pass of the step.
        return grad, squared_norm(grad) if ctx.needs_input_grad[1] else None


def _probe_arguments(
    probes: Probes, term: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def probe(value: Any) -> Any:
        return probes.probe(term, value) if isinstance(value, Tensor) and value.is_floating_point() else value

    return tuple(map(probe, args)), {name: probe(value) for name, value in kwargs.items()}


def _new_gauges(count: int, device: torch.device) -> list[Tensor]:
    return [torch.zeros((), device=device, requires_grad=True) for _ in range(count)]


@torch.compiler.assume_constant_result
def _trace_autograd(allowed: bool) -> int:
    # Lets the compiler, while it traces the first step, trace `torch.autograd.grad` too; does nothing otherwise.
    if torch.compiler.is_compiling():
        config = torch._dynamo.config
        if hasattr(config, "trace_autograd_ops"):
            config.trace_autograd_ops = allowed
    return 0
