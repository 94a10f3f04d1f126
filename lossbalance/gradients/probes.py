r"""Gradient-norm probes: the norms of all terms in the one ordinary backward pass.

A probe is the identity in the forward pass; in the backward pass it passes the gradient on unchanged and records its
norm. The life of a step, in order:

1. **Attach.** The forward pass meets probes, :meth:`Probes.attach_probe`; they belong to the open ``Measurement``.
2. **Measure ahead.** Where a term is new, :meth:`Probes.measure_ahead` differentiates each loss up to its probes by
   ``torch.autograd.grad``: the weights of this very step need the norms.
3. **All-reduce.** The ranks bring together what they have measured of the step before, :class:`PendingNorms`, or ahead
   of this one, and the scheme observes it.
4. **Begin the step.** :meth:`Probes.begin_step` closes the measurement, and opens the next. A hook on the row of losses
   will tell that the backward pass of this total begins.
5. **Accumulate.** From then on what arrives at the probes goes to a ``NormAccumulator``.
6. **Commit.** When the pass ends, the norms are divided by what arrived at the row, the gradient of the total by each
   loss, so by weights, a gradient scaler and the number of accumulated batches at once. They are the next call's
   ``PendingNorms``. A step whose losses are not finite commits nothing.

In a compiled graph, leaf tensors replace steps 4 and 5, :mod:`lossbalance.gradients.traced`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lossbalance._utils.checks import check_word
from lossbalance._utils.distributed import Ranks
from lossbalance._utils.transforms import refuse_transforms
from lossbalance.gradients.data_parallel import active_wrapper
from lossbalance.gradients.measurement import Measurement, Probe
from lossbalance.gradients.norms import NormAccumulator, measure_each
from lossbalance.gradients.pending import PendingNorms, average_over_ranks
from lossbalance.gradients.traced import MeasurementLeaves, sizes_of, trace_autograd
from lossbalance.weighting.base import Losses, is_non_finite


class Probes(nn.Module):
    """The probes of K terms, and the norms that they have measured.

    Args:
        terms: Names of the losses, in the order of the row.
        ranks: The ranks that the norms are reduced over; all by default.
    """

    _marker: Tensor

    def __init__(self, terms: Sequence[str], ranks: Ranks | None = None) -> None:
        super().__init__()
        self.ranks = ranks or Ranks()
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
        self.is_deferred = self._marker.is_meta  # whether made on the meta device, to get values later
        self.pending = PendingNorms(len(self.terms), self.device, self.ranks)
        self.leaves = MeasurementLeaves(len(self.terms), self.device, self._on_traced_backward_start)
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
        return self._attach(term, [x])[0]

    def register(self, terms: Sequence[str], x: Tensor) -> None:
        """Registers ``x`` as a tensor by which the gradient of each of the terms is measured."""
        for term in terms:
            self._check(term, x)
        refuse_transforms("to probe an activation")
        if x.device != self.device:
            raise ValueError(f"`x` is on {x.device}, the criterion on {self.device}: move it with `.to(device)`.")
        self.probed.update(terms)
        self.open.wrapper = active_wrapper() or self.open.wrapper
        if x.dtype == torch.float16:
            self._half = True
        if self.open.running is None:
            for term in terms:
                self.open.entries[self._index[term]] += x.numel()

    def alias(self, term: str, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the parameters as all forward passes of ``term`` see them in the open step."""
        aliases, index = self.open.aliases, self._index[term]
        unknown = [parameter for parameter in parameters.values() if (index, id(parameter)) not in aliases]
        for parameter, probed in zip(unknown, self._attach(term, unknown) if unknown else (), strict=True):
            aliases[index, id(parameter)] = probed
        return {name: aliases[index, id(parameter)] for name, parameter in parameters.items()}

    @property
    def wrapper(self) -> DistributedDataParallel | None:
        """The data-parallel wrapper in whose forward pass the open step has met a probe."""
        return self.open.wrapper

    def last_step(self, losses: Losses) -> tuple[Tensor, Tensor]:
        """Returns what the last backward pass has measured, reduced over ranks, and marks it as observed.

        Args:
            losses: The losses of the step at hand.

        Returns:
            Losses, norms and perhaps magnitudes ``[2 or 4, terms]``, and whether a loss of the step at hand is not
            finite on any rank, ``[]``.
        """
        values = losses.row.detach()
        self.pending.resize(self.magnitudes, values)
        rows, non_finite = self.pending.all_reduce(is_non_finite(values))
        self.pending.mark_observed(non_finite)
        return rows, non_finite

    def ahead(self, losses: Losses) -> tuple[Tensor, Tensor]:
        """Measures the step at hand ahead of its backward pass, and returns it as :meth:`last_step` does."""
        values = losses.row.detach()
        self.pending.resize(self.magnitudes, values)
        measured = self.measure_ahead(list(losses.given.values()))
        rows = torch.cat([values.unsqueeze(0), measured])
        rows, non_finite = average_over_ranks(rows, losses.present, is_non_finite(values), self.ranks)
        self.pending.discard(non_finite)
        self.mark_known(losses.names, ~non_finite & measured.isfinite().all())
        return rows, non_finite

    def synchronize(self) -> None:
        """Reduces what the last backward pass has measured over ranks, ahead of the next step."""
        self.pending.all_reduce(torch.zeros((), dtype=torch.bool, device=self.device))

    def measure_ahead(self, losses: Sequence[Tensor | None]) -> Tensor:
        """Returns the norms and, if asked for, magnitudes at the probes, ``[1 or 3, terms]``, before the backward pass.

        It takes one partial backward pass for each loss, which ends at the probes.

        Raises:
            ValueError: If a loss depends on none of its probes, or on a derivative of what was probed.
        """
        factors = (1.0, 2.0**8, 2.0**16) if self._half else (1.0,)  # small gradients vanish in fp16
        if torch.compiler.is_compiling():
            trace_autograd(True)
        rows = measure_each(losses, self._differentiate, self.open.entries, self.magnitudes, factors)
        if torch.compiler.is_compiling():
            trace_autograd(False)
        return rows

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

    def mark_known(self, terms: Iterable[str], measured: Tensor) -> None:
        """Marks the norms of ``terms`` as known, unless they were not finite: then the next step measures ahead again.

        Synchronizes with the device, once in a training for each term; never inside a compiled graph.
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
            return row + self.leaves.weights
        self.leaves.clear()
        if row.requires_grad:
            row.register_hook(partial(self._on_backward_start, begun))
        return row

    def _attach(self, term: str, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        for tensor in tensors:
            self.register([term], tensor)
        index = self._index[term]
        if torch.compiler.is_compiling():
            return self.leaves.attach(tensors, index, self.open.column([index], self.magnitudes), self.magnitudes)
        return [Probe.apply(tensor, self.leaves.sizes, self.open, index) for tensor in tensors]

    def _on_backward_start(self, begun: Measurement, weights: Tensor) -> None:
        """Begins to accumulate: the backward pass of a total has come to the losses, with its gradient by each."""
        begun.accumulator = NormAccumulator(begun.entries, self.magnitudes)
        queue_callback = torch.autograd.Variable._execution_engine.queue_callback
        queue_callback(partial(self._on_backward_end, begun, weights.detach()))

    @torch.no_grad()
    def _on_backward_end(self, begun: Measurement, weights: Tensor) -> None:
        """Commits what has been accumulated: the backward pass has ended."""
        accumulator, begun.accumulator = begun.accumulator, None
        if accumulator is None or begun.losses is None:
            return
        for index, sizes in enumerate(self.leaves.take()):
            accumulator.add_measured(index, sizes.unbind())
        measured = accumulator.rows()
        if measured is None:
            return
        self.has_committed = True
        begun.norms = measured[0]
        if begun.non_finite is not None:
            rows = torch.cat([begun.losses.unsqueeze(0), (measured / weights).abs()])
            self.pending.commit(rows, begun.non_finite)

    def _on_traced_backward_start(self, weights: Tensor) -> None:
        self._on_backward_start(self._begun, weights)

    def _differentiate(self, index: int, loss: Tensor, factor: Tensor, accumulator: NormAccumulator) -> None:
        """Differentiates a loss up to its probes."""
        step = self.open
        step.accumulator, step.only, step.differentiated = accumulator, index, False
        try:
            (traced,) = torch.autograd.grad(loss, [self.leaves.sizes], factor, retain_graph=True, allow_unused=True)
        finally:
            step.accumulator = step.only = None
        if traced is not None:
            accumulator.add_measured(index, sizes_of(traced)[index].unbind())
        if step.differentiated or not accumulator.has(index):
            term = self.terms[index]
            why = "on a derivative of what was probed" if step.differentiated else "on nothing that was probed for it"
            raise ValueError(
                f"the probes of {term!r} cannot see the gradient of its loss, which depends {why}: run the module by "
                f'`criterion.probe_parameters("{term}", module)` and compute the loss from what that returns.'
            )

    def _check(self, term: str, x: Tensor) -> None:
        if term not in self._index:
            check_word("term", term, self.terms)
        if not (x.is_floating_point() or x.is_complex()):
            raise TypeError(f"`x` must be an activation in floating point, got {x.dtype}: probe what enters a head.")

    def get_extra_state(self) -> Tensor:
        """The norms not yet observed, and which terms are known: ``[rows + 1, terms]``."""
        rows = self.pending.state()
        known = rows.new_tensor([term in self.known for term in self.terms])
        return torch.cat([rows, known.unsqueeze(0)])

    def set_extra_state(self, state: Tensor) -> None:
        """Restores what :meth:`get_extra_state` returned."""
        if self._marker.is_meta:  # and the state is assigned
            self._marker = torch.empty(0, device=state.device)
            self.move()
        self.pending.load(state[:-1])
        self.known = {term for term, known in zip(self.terms, state[-1].tolist(), strict=True) if known}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Probes":
        super()._apply(fn, recurse)
        self.move()
        return self

    def move(self) -> None:
        """Moves the measurements to the device of the criterion."""
        if self.device != self.pending.rows.device:
            self.pending.to(self.device)
            self.leaves = MeasurementLeaves(len(self.terms), self.device, self._on_traced_backward_start)

    def __getstate__(self) -> dict[str, Any]:
        # A copy has a step of its own, and leaves of its own.
        return {**self.__dict__, "open": None, "_begun": None, "leaves": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.open = self._begun = Measurement(len(self.terms), Measurement(len(self.terms)))
        self.leaves = MeasurementLeaves(len(self.terms), self.device, self._on_traced_backward_start)
