r"""Gradient norms, in one backward pass.

A probe is the identity in the forward pass. In the backward pass it hands the gradient on unchanged and adds the square
of its norm to what is known of its term. So the one ordinary ``backward()`` measures every term, and what it leaves
behind is one number for each.

What arrives at a probe is the gradient of the *weighted* term, times whatever the total was multiplied by before
``backward()``: a gradient scaler's factor, one over the number of accumulated batches. A last probe, at the total,
measures that factor :math:`s`, so that the norm of the unweighted loss can be told:

.. math:: n_i = \frac{\|g_i\|}{w_i \, |s|}.

A gradient scheme asks for the norms of its first steps ahead of their backward pass, so the losses must be
differentiable by something that stands for the norm: the *gauge* of a term, a second input of its probes. The steps
that follow do without, which costs less; :mod:`lossbalance.gradients.gauges` has both.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lossbalance._utils.checks import check_word
from lossbalance.gradients.gauges import Gauges


class Probes(nn.Module):
    """The places where the gradients of K terms are measured, and what their gauges say.

    Args:
        terms: Names of the losses, in the order of the row.
    """

    def __init__(self, terms: Sequence[str]) -> None:
        super().__init__()
        self.terms = tuple(terms)
        self.gauges = Gauges(len(self.terms))
        self.placed: set[str] = set()  # terms that a probe was placed for, if they met it or not
        self.probed: set[str] = set()  # terms that have met a probe
        self.known: set[str] = set()  # terms whose norm has been measured
        self.begun = False  # whether norms have been taken by `shared`
        self._places = {term: i for i, term in enumerate(self.terms)}
        self._half = False  # whether a probe has met an activation of fp16

    @property
    def device(self) -> torch.device:
        """Where the gauges are, and the losses must be."""
        return self.gauges.device

    def probe(self, term: str, x: Tensor, ahead: bool) -> Tensor:
        """Returns ``x``; the backward pass of the total adds the square of its gradient's norm to what ``term`` has.

        Args:
            term: The name of the term.
            x: The activation.
            ahead: Whether :meth:`measure` will be asked for norms that are not known.
        """
        if term not in self._places:
            check_word("term", term, self.terms)
        if not x.is_floating_point():
            raise TypeError(f"`x` must be an activation in floating point, got {x.dtype}: probe what enters a head.")
        if not (self.training and torch.is_grad_enabled()):
            return x
        if x.device != self.device:
            raise ValueError(f"`x` is on {x.device}, the criterion on {self.device}: move it with `.to(device)`.")
        self.probed.add(term)
        if x.dtype == torch.float16:
            self._half = True
        place = self._places[term]
        if (ahead and len(self.known) < len(self.terms)) or not _can_be_hooked(x):
            return self.gauges.by_gauge(place, x)
        return self.gauges.by_hook(place, x)

    def probe_inputs(self, modules: Mapping[str, nn.Module], probe: Callable[[str, Tensor], Tensor]) -> "ProbeHandle":
        """Lets ``probe`` have the activations that enter each module, until the handle's ``remove()``."""
        for term in modules:
            check_word("modules", term, self.terms)
        self.placed.update(modules)
        return ProbeHandle(
            module.register_forward_pre_hook(partial(_probe_arguments, probe, term), with_kwargs=True)
            for term, module in modules.items()
        )

    def measure(self, losses: Sequence[Tensor | None]) -> Tensor:
        """Returns the norms ``[terms]`` at the probes by one partial backward pass per loss."""
        _trace_autograd(True)
        factors = (1.0, 2.0**8, 2.0**16) if self._half else (1.0,)  # small gradients vanish in fp16
        squares = self.gauges.ahead(losses, factors)
        _trace_autograd(False)
        return squares.sqrt()

    def learn(self, terms: Iterable[str], finite: Tensor) -> None:
        """Notes that the norms of ``terms`` have been measured, unless they were not finite: then they will be again.

        Asks the device, once in a training for each term; inside a compiled graph it trusts.
        """
        if torch.compiler.is_compiling() or finite.tolist():
            self.known.update(terms)

    def squares(self) -> Tensor:
        """Returns the squared norms of the last backward pass ``[terms]``, as they arrived: of the weighted losses.

        That of a term that no probe was placed for is nan.
        """
        squares = self.gauges.squares()
        if len(self.probed) == len(self.terms):
            return squares
        probed = to_device([term in self.probed for term in self.terms], self.device)
        return squares.where(probed, torch.nan)

    def get_extra_state(self) -> Tensor:
        """What is measured but not yet used, and which terms are known: ``[3, terms]``."""
        pending = self.gauges.pending()
        known = pending.new_tensor([term in self.known for term in self.terms])
        return torch.cat([pending, known.unsqueeze(0)])

    def set_extra_state(self, state: Tensor) -> None:
        """Takes up what :meth:`get_extra_state` returned."""
        self.gauges.resume(state[:2])
        self.known = {term for term, known in zip(self.terms, state[2].tolist(), strict=True) if known}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Probes":
        device = fn(self.gauges.broken).device
        if device != self.device:
            self.gauges.move(device)
        return super()._apply(fn, recurse)


class ProbeHandle:
    """The probes that :meth:`Probes.probe_inputs` has placed."""

    def __init__(self, hooks: Iterable[RemovableHandle]) -> None:
        self._hooks = list(hooks)

    def remove(self) -> None:
        """Takes the probes away; may be called more than once."""
        for hook in self._hooks:
            hook.remove()


def to_device(flags: list[bool], device: torch.device) -> Tensor:
    """Returns the flags as a tensor, without waiting for the device."""
    return torch.tensor(flags).to(device, non_blocking=True)


def _can_be_hooked(x: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    if type(x) is not Tensor or not x.requires_grad:
        return False
    return torch._C._current_graph_task_id() == -1  # what a checkpoint runs again may have a backward pass of its own


def _probe_arguments(
    probe: Callable[[str, Tensor], Tensor],
    term: str,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def each(value: Any) -> Any:
        return probe(term, value) if isinstance(value, Tensor) and value.is_floating_point() else value

    return tuple(map(each, args)), {name: each(value) for name, value in kwargs.items()}


def _trace_autograd(allowed: bool) -> int:
    # Lets the compiler, while it traces the first step, trace `torch.autograd.grad` too; does nothing otherwise.
    if torch.compiler.is_compiling():
        config = torch._dynamo.config
        if hasattr(config, "trace_autograd_ops"):
            config.trace_autograd_ops = allowed
    return 0


_trace_autograd._dynamo_marked_constant = True  # type: ignore[attr-defined]  # what the compiler's decorator does
