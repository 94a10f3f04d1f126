r"""Gradient norms, in the one ordinary backward pass.

A probe is the identity in the forward pass; in the backward pass it hands the gradient on unchanged and lets it be
measured. The life of a step, in the order in which it happens:

1. **Attach.** The forward pass meets probes, :meth:`Probes.attach_probe`; they belong to the open :class:`Measurement`.
2. **Measure ahead.** Where a term is new, :meth:`Probes.measure_ahead` differentiates each loss up to its probes by
   ``torch.autograd.grad``: the weights of this very step need the norms.
3. **All-reduce.** The ranks bring together what they have measured, :meth:`Probes.all_reduce`; the scheme observes it.
4. **Begin the step.** :meth:`Probes.begin_step` closes the measurement, and opens the next. A hook on the row of losses
   will tell that the backward pass of this total begins.
5. **Accumulate.** From then on what arrives at the probes goes to the measurement's ``NormAccumulator``.
6. **Commit.** When the pass ends, the norms are divided by what arrived at the row, the gradient of the total by each
   loss, so by weights, a gradient scaler and the number of accumulated batches at once. They wait for step 3 of the
   next call. A step whose losses are not finite commits nothing.

In a compiled graph leaves stand in for 4 and 5, :mod:`lossbalance.gradients.traced`.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lossbalance._utils.checks import check_word
from lossbalance._utils.distributed import world_size
from lossbalance.gradients.norms import NormAccumulator, measure_each
from lossbalance.gradients.reduce import average_over_ranks
from lossbalance.gradients.traced import Gauges, sizes_of, trace_autograd


class Measurement:
    """What the probes of one step measure, and the step that it belongs to.

    Args:
        count: The number of terms.
        previous: The measurement of the step before.
    """

    def __init__(self, count: int, previous: "Measurement | None" = None) -> None:
        self.entries = [0] * count
        """How many entries each term's gradient has."""
        self.aliases: dict[tuple[int, int], Tensor] = {}
        """Parameters of the open step as they are seen through probes, by term and identity."""
        self.accumulator: NormAccumulator | None = None
        """Where gradients go that arrive; None outside the backward pass of the step's total."""
        self.only: int | None = None
        """The one term whose gradients count, ahead of the step."""
        self.differentiated = False
        """Whether a backward pass has met the derivative of a probe, ahead of the step."""
        self.previous = previous
        self.losses: Tensor | None = None
        self.non_finite: Tensor | None = None
        self.norms: Tensor | None = None
        """The norms of the gradients of the weighted losses ``[terms]``, up to a factor, after the backward pass."""

    def close(self, losses: Tensor, non_finite: Tensor | None) -> None:
        """Notes the step's losses, and whether one is not finite; None if the norms are not to be committed."""
        self.losses, self.non_finite = losses, non_finite
        self.previous = None
        self.aliases.clear()

    def receive(self, index: int, gradient: Tensor, gauge: Tensor) -> Tensor:
        """Takes a gradient that arrives at a probe of the term at ``index``, and hands it on."""
        accumulator = self.running
        if accumulator is not None:
            if self.only is None or self.only == index:
                accumulator.add(index, gradient)
        elif torch.is_grad_enabled():  # a derivative on the way to a loss
            return _Derivative.apply(gradient, gauge, self)
        return gradient

    @property
    def running(self) -> NormAccumulator | None:
        """The accumulator of the backward pass under way: what a checkpoint runs again there was opened after it."""
        if self.accumulator is None and self.previous is not None:
            return self.previous.accumulator
        return self.accumulator


class Probes(nn.Module):
    """The places where the gradients of K terms are measured, and what is known of them.

    Args:
        terms: Names of the losses, in the order of the row.
    """

    _marker: Tensor

    def __init__(self, terms: Sequence[str]) -> None:
        super().__init__()
        self.terms = tuple(terms)
        self.placed: set[str] = set()  # terms that a probe was placed for, if they met it or not
        self.probed: set[str] = set()  # terms that have met a probe
        self.known: set[str] = set()  # terms whose norm has been measured
        self.magnitudes = False  # whether the scheme uses them
        self.open = Measurement(len(self.terms), Measurement(len(self.terms)))
        """The measurement that probes belong to now."""
        self._begun = self.open  # the last step that has begun
        self.has_committed = False  # whether a backward pass of a total has been measured
        self._half = False  # whether a probe has met an activation of fp16
        self._index = {term: i for i, term in enumerate(self.terms)}
        self.register_buffer("_marker", torch.empty(0), persistent=False)
        # Rows for the next step: losses, norms, and where asked for the largest and mean magnitudes. Written in place,
        # so that a CUDA graph finds them where they were; no buffer, for DistributedDataParallel overwrites these.
        self._rows = torch.zeros(2, len(self.terms))
        self._fresh = torch.zeros((), dtype=torch.bool)  # whether they are of this rank alone
        self._unused: Tensor | None = None  # whether they are still to be observed; None if they are
        self.gauges = Gauges(len(self.terms), self.device, self._enter_begun)
        """The leaves whose gradients are measurements."""

    @property
    def device(self) -> torch.device:
        """Where the losses must be."""
        return self._marker.device

    def attach_probe(self, term: str, x: Tensor) -> Tensor:
        """Returns ``x``, with a probe of ``term``."""
        if not (self.training and torch.is_grad_enabled()):
            self._check(term, x)
            return x
        index = self.expect(term, x)
        if torch.compiler.is_compiling():
            return self.gauges.attach(x, index, self.magnitudes)
        return _Probe.apply(x, self.gauges.sizes, self.open, index)

    def expect(self, term: str, x: Tensor) -> int:
        """Notes that the gradient of ``term`` by ``x`` will be measured, and returns the term's index."""
        self._check(term, x)
        if x.device != self.device:
            raise ValueError(f"`x` is on {x.device}, the criterion on {self.device}: move it with `.to(device)`.")
        self.probed.add(term)
        if x.dtype == torch.float16:
            self._half = True
        index = self._index[term]
        if self.open.running is None:
            self.open.entries[index] += x.numel()
        return index

    def _check(self, term: str, x: Tensor) -> None:
        if term not in self._index:
            check_word("term", term, self.terms)
        if not (x.is_floating_point() or x.is_complex()):
            raise TypeError(f"`x` must be an activation in floating point, got {x.dtype}: probe what enters a head.")

    def alias(self, term: str, parameter: Tensor) -> Tensor:
        """Returns the parameter as the forward passes of ``term`` see it in the open step: all through one probe."""
        key = self._index[term], id(parameter)
        known = self.open.aliases.get(key)
        if known is None:
            known = self.open.aliases[key] = self.attach_probe(term, parameter)
        return known

    def measure_ahead(self, losses: Sequence[Tensor | None]) -> Tensor:
        """Returns the norms and, if asked for, magnitudes at the probes, ``[1 or 3, terms]``, before the backward pass.

        It takes one partial backward pass for each loss, which ends at the probes.

        Raises:
            ValueError: If a loss depends on none of its probes, or on a derivative of what was probed.
        """
        factors = (1.0, 2.0**8, 2.0**16) if self._half else (1.0,)  # small gradients vanish in fp16
        if torch.compiler.is_compiling():
            trace_autograd(True)
        rows = measure_each(losses, self._bring, self.open.entries, self.magnitudes, factors)
        if torch.compiler.is_compiling():
            trace_autograd(False)
        return rows

    def fit(self, dtype: torch.dtype) -> None:
        """Makes room for what the scheme uses, in the type of the losses."""
        count = 4 if self.magnitudes else 2
        if len(self._rows) != count or self._rows.dtype != dtype or self._rows.device != self.device:
            rows = torch.zeros(count, len(self.terms), dtype=dtype, device=self.device)
            rows[: len(self._rows)] = self._rows[:count]
            self._rows = rows
            self._fresh = self._fresh.to(self.device)

    def all_reduce(
        self, non_finite: Tensor, ahead: Tensor | None = None, present: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns what all ranks have measured, to be observed once, and whether a loss of any rank is not finite.

        Args:
            non_finite: Whether a loss of the step at hand is not finite on this rank, ``[]``.
            ahead: Losses and what was measured of them ahead, in place of what is known of the step before; or None.
            present: Whether the step has the term, ``[terms]``, where there is something measured ahead.
        """
        if ahead is not None and present is not None:
            rows, non_finite = average_over_ranks(ahead, present, non_finite)
            self._write(torch.zeros_like(rows), non_finite)  # used up at once
            return rows, non_finite
        rows, non_finite = average_over_ranks(self._pending(), self._fresh, non_finite)
        if world_size() > 1:
            self._write(rows, non_finite)
            self._fresh.logical_and_(non_finite)
        self._unused = non_finite if self._unused is None else non_finite & self._unused
        return rows, non_finite

    def norms(self) -> Tensor:
        """Returns the norms that the last backward pass has measured, of the weighted losses, up to a factor.

        nan for a term without probe, and before the backward pass.
        """
        found = self._begun.norms
        if found is None:
            return torch.full((len(self.terms),), torch.nan, device=self.device)
        if len(self.probed) == len(self.terms):
            return found
        probed = torch.tensor([term in self.probed for term in self.terms])
        return found.where(probed.to(self.device, non_blocking=True), torch.nan)

    def learn(self, terms: Iterable[str], measured: Tensor) -> None:
        """Notes that the norms of ``terms`` have been measured, unless they were not finite: then they will be again.

        Asks the device, once in a training for each term; inside a compiled graph it trusts.
        """
        if torch.compiler.is_compiling() or measured.tolist():
            self.known.update(terms)

    def begin_step(self, row: Tensor, non_finite: Tensor | None) -> Tensor:
        """Closes the measurement, to be made in the backward pass that comes through ``row``, and opens the next.

        Args:
            row: The losses ``[terms]``.
            non_finite: Whether one of them, on any rank, is not finite, ``[]``; None if nothing is to be committed.

        Returns:
            The row that the total is to be made of.
        """
        begun, self.open = self.open, Measurement(len(self.terms), self.open)
        begun.close(row.detach(), non_finite)
        self._begun = begun
        if torch.compiler.is_compiling():
            return row + self.gauges.weights
        self.gauges.clear()
        if row.requires_grad:
            row.register_hook(partial(self._enter, begun))
        return row

    def _enter(self, begun: Measurement, weights: Tensor) -> None:
        """Begins to accumulate: the backward pass of a total has come to the losses, with its gradient by each."""
        begun.accumulator = NormAccumulator(begun.entries, self.magnitudes)
        queue_callback = torch.autograd.Variable._execution_engine.queue_callback
        queue_callback(partial(self._leave, begun, weights.detach()))

    @torch.no_grad()
    def _leave(self, begun: Measurement, weights: Tensor) -> None:
        """Commits what has been accumulated: the backward pass has ended."""
        accumulator, begun.accumulator = begun.accumulator, None
        if accumulator is None or begun.losses is None:
            return
        for index, sizes in enumerate(self.gauges.take()):
            accumulator.add_measured(index, sizes)
        measured = accumulator.rows()
        if measured is None:
            return
        self.has_committed = True
        begun.norms = measured[0]
        if begun.non_finite is not None:
            self._unused = None
            self._write(torch.cat([begun.losses.unsqueeze(0), (measured / weights).abs()]), begun.non_finite)
            if world_size() > 1:
                self._fresh.logical_or_(~begun.non_finite)

    def _enter_begun(self, weights: Tensor) -> None:
        self._enter(self._begun, weights)

    def _bring(self, index: int, loss: Tensor, factor: Tensor, accumulator: NormAccumulator) -> None:
        """Differentiates a loss up to its probes."""
        step = self.open
        step.accumulator, step.only, step.differentiated = accumulator, index, False
        (traced,) = torch.autograd.grad(loss, [self.gauges.sizes], factor, retain_graph=True, allow_unused=True)
        step.accumulator = step.only = None
        if traced is not None:
            accumulator.add_measured(index, sizes_of(traced)[index])
        if step.differentiated or not accumulator.has(index):
            term = self.terms[index]
            why = "on a derivative of what was probed" if step.differentiated else "on nothing that was probed for it"
            raise ValueError(
                f"the probes of {term!r} cannot see the gradient of its loss, which depends {why}: run the module by "
                f'`criterion.probe_parameters("{term}", module)` and compute the loss from what that returns.'
            )

    def _pending(self) -> Tensor:
        """Returns the rows that are to be observed; zeros where they have been, and no pass has brought others."""
        return self._rows if self._unused is None else self._rows.masked_fill(~self._unused, 0.0)

    def _write(self, rows: Tensor, non_finite: Tensor) -> None:
        """Keeps the rows for the next step, in place, unless a loss was not finite."""
        rows = rows.to(self._rows.dtype)
        torch.where(non_finite, self._rows, rows, out=self._rows)

    def get_extra_state(self) -> Tensor:
        """What is measured but not yet used, and which terms are known: ``[rows + 1, terms]``."""
        rows = self._pending().clone()
        rows[1].mul_(torch.where(self._fresh, world_size() ** -0.5, 1.0))  # a rank that saves alone speaks for all
        known = rows.new_tensor([term in self.known for term in self.terms])
        return torch.cat([rows, known.unsqueeze(0)])

    def set_extra_state(self, state: Tensor) -> None:
        """Takes up what :meth:`get_extra_state` returned."""
        self._rows, self._unused = state[:-1].to(self.device, copy=True), None
        self._fresh = torch.zeros((), dtype=torch.bool, device=self.device)
        self.known = {term for term, known in zip(self.terms, state[-1].tolist(), strict=True) if known}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Probes":
        super()._apply(fn, recurse)
        if self.device != self._rows.device:
            self._rows, self._fresh = _to(self._rows, self.device), _to(self._fresh, self.device)
            self._unused = None if self._unused is None else _to(self._unused, self.device)
            self.gauges = Gauges(len(self.terms), self.device, self._enter_begun)
        return self

    def __getstate__(self) -> dict[str, Any]:
        # A copy has a step of its own, and leaves of its own.
        return {**self.__dict__, "open": None, "_begun": None, "gauges": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.open = self._begun = Measurement(len(self.terms), Measurement(len(self.terms)))
        self.gauges = Gauges(len(self.terms), self.device, self._enter_begun)


class _Probe(torch.autograd.Function):
    """The identity on ``x``; what arrives there is handed to the step that the probe belongs to."""

    # `forward` takes `ctx`: with a `setup_context` of its own, `apply` costs several times as much.
    @staticmethod
    def forward(ctx: Any, x: Tensor, gauge: Tensor, step: Measurement, index: int) -> Tensor:
        ctx.set_materialize_grads(False)  # where there is no gradient, none is handed on
        ctx.gauge, ctx.step, ctx.index = gauge, step, index
        return x[...]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        return None if grad is None else ctx.step.receive(ctx.index, grad, ctx.gauge), None, None, None


class _Derivative(torch.autograd.Function):
    """The identity on the gradient of what was probed, where it is differentiated; says so."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, gauge: Tensor, step: Measurement) -> Tensor:
        ctx.step = step
        return gradient[...]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        ctx.step.differentiated = True
        return grad, None, None


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    """Moves a tensor; one that has no values gets zeros."""
    return torch.zeros_like(tensor, device=device) if tensor.is_meta else tensor.to(device)
