r"""Gradient norms, in one backward pass.

A probe is the identity in the forward pass. In the backward pass it hands the gradient on unchanged and leaves the
square of its norm as the "gradient" of a second input, the *gauge* of its term: a leaf that autograd fills as it fills
the gradient of any parameter. So the one ordinary ``backward()`` measures every term, with no hook and
nothing kept alive.

What arrives at a probe is the gradient of the *weighted* term, times whatever the total was multiplied by before
``backward()``: a gradient scaler's factor, one over the number of accumulated batches. A last probe, at the total,
measures that factor :math:`s`, so that the norm of the unweighted loss can be told:

.. math:: n_i = \frac{\|g_i\|}{w_i \, |s|}.

Terms that probe the same activation share one node of the graph, a fork with a branch for each, because to enter a node
that is written in Python costs more than the norm does. Their gradients wait in it for the last one, so a large
activation gets a node per term.
"""

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lossbalance.checks import check_word
from lossbalance.gauges import Gauges
from lossbalance.norms import squared_norms

_BRANCHES = 8  # of one fork, at most
_WAITING = 2**21  # bytes of gradients that wait in one fork, at most
_FORKS = 64  # that are remembered at a time


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
        self._places = {term: i for i, term in enumerate(self.terms)}
        self._forks = _Forks()
        self._half = False  # whether a probe has met an activation of fp16

    @property
    def device(self) -> torch.device:
        """Where the gauges are, and the losses must be."""
        return self.gauges.device

    def probe(self, term: str, x: Tensor) -> Tensor:
        """Returns ``x``; the backward pass adds the square of its gradient's norm to the gauge of ``term``."""
        if term not in self._places:
            check_word("term", term, self.terms)
        place = self._places[term]
        measures = self.training and torch.is_grad_enabled()
        compiling = torch.compiler.is_compiling()
        if measures and not compiling:
            branch = self._forks.take(self.gauges, place, x)
            if branch is not None:  # of an activation that has passed what follows
                self.probed.add(term)
                return branch
        if not x.is_floating_point():
            raise TypeError(f"`x` must be an activation in floating point, got {x.dtype}: probe what enters a head.")
        if not measures:
            return x
        if x.device != self.device:
            raise ValueError(f"`x` is on {x.device}, the criterion on {self.device}: move it with `.to(device)`.")
        self.probed.add(term)
        if x.dtype == torch.float16:
            self._half = True
        if compiling or not _can_be_forked(x):
            return self.gauges.branches(place, place + 1, x)[0]
        return self._forks.add(x).grow(self.gauges, place, x)

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
        squares = squared_norms(losses, [self.gauges.of(place) for place in range(len(losses))], factors)
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
            self._forks = _Forks()  # for branches lead to the gauges that were
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


class _Forks(threading.local):
    """The forks of the activations that were probed."""

    def __init__(self) -> None:
        self._of: dict[int, _Fork] = {}  # by the id of the activation

    def take(self, gauges: Gauges, place: int, x: Tensor) -> Tensor | None:
        """Returns a branch for the term at ``place``, if there is a fork of ``x`` as it is now."""
        fork = self._of.get(id(x))
        if fork is None or fork.x() is not x or fork.state != _state(x):
            return None
        block = fork.blocks.get(place // fork.count)
        if block is not None and place in block:
            return block.pop(place)
        return fork.grow(gauges, place, x)

    def add(self, x: Tensor) -> "_Fork":
        """Returns a new fork of ``x``."""
        if len(self._of) >= _FORKS:
            self._of.clear()
        fork = self._of[id(x)] = _Fork(x)
        return fork

    def __reduce__(self) -> tuple[type["_Forks"], tuple[()]]:
        """A copy begins with nothing."""
        return _Forks, ()


class _Fork:
    """The branches of one activation that no probe has taken yet."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.state = weakref.ref(x), _state(x)
        self.count = min(_BRANCHES, max(1, _WAITING // max(1, x.nbytes)))  # of neighbours that make a block
        self.blocks: dict[int, dict[int, Tensor]] = {}  # the branches of each, by the place of their terms
        self._firsts: dict[int, weakref.ref[Tensor]] = {}

    def grow(self, gauges: Gauges, place: int, x: Tensor) -> Tensor:
        """Returns a new branch for the term at ``place``, and makes one for its neighbours too.

        Those go when this one goes, so that they keep nothing alive.
        """
        number = place // self.count
        start, stop = number * self.count, min((number + 1) * self.count, gauges.count)
        block = dict(zip(range(start, stop), gauges.branches(start, stop, x), strict=True))
        first = block.pop(place)
        self.blocks[number] = block
        # Nothing of Python in the callback: a Ctrl-C that arrives in one is lost.
        self._firsts[number] = weakref.ref(first, partial(self.blocks.pop, number))
        return first


def _state(x: Tensor) -> tuple[int, int, bool, bool]:
    """Returns what changes when a tensor is given other values or another place in the graph."""
    return x._version, x.data_ptr(), x.requires_grad, x.is_leaf


def _can_be_forked(x: Tensor) -> bool:
    return type(x) is Tensor and x.layout == torch.strided and not x.is_inference()


def _probe_arguments(
    probes: Probes, term: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def probe(value: Any) -> Any:
        return probes.probe(term, value) if isinstance(value, Tensor) and value.is_floating_point() else value

    return tuple(map(probe, args)), {name: probe(value) for name, value in kwargs.items()}


@torch.compiler.assume_constant_result
def _trace_autograd(allowed: bool) -> int:
    # Lets the compiler, while it traces the first step, trace `torch.autograd.grad` too; does nothing otherwise.
    if torch.compiler.is_compiling():
        config = torch._dynamo.config
        if hasattr(config, "trace_autograd_ops"):
            config.trace_autograd_ops = allowed
    return 0
