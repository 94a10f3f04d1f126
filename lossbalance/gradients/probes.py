r"""Gradient-norm probes: the norms of all terms in the one ordinary backward pass.

A probe is the identity in the forward pass; in the backward pass it passes the gradient on unchanged and records its
norm. The life of a step, in order:

1. **Attach.** The forward pass meets probes, :meth:`Probes.attach_probe`. They join the open ``Measurement``; the first
   one after a call of the criterion opens the next, so that two calls after one forward pass share one step.
2. **Measure ahead.** In the first step of a term, :meth:`Probes.ahead` differentiates each loss up to its probes by
   ``torch.autograd.grad``: the weights of this very step need the norms. Later steps do so only while the term is near
   its minimum, :mod:`lossbalance.gradients.first_steps`.
3. **All-reduce.** The ranks bring together what they have measured of the step before, :class:`PendingNorms`, or ahead
   of this one, and the scheme observes it.
4. **Begin the step.** :meth:`Probes.begin_step` registers a hook on the row of losses, which marks where the backward
   pass of this total begins.
5. **Accumulate.** From then on what arrives at the probes goes to a ``NormAccumulator``.
6. **Commit.** When the pass ends, the norms are divided by what arrived at the row, the gradient of the total by each
   loss, so by weights, a gradient scaler and the number of accumulated batches at once. They are the next call's
   ``PendingNorms``. A step whose losses are not finite commits nothing, and so does a pass that raises.

In a compiled graph, leaf tensors replace steps 4 and 5, :mod:`lossbalance.gradients.traced`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lossbalance._utils.checks import check_choice
from lossbalance._utils.distributed import Ranks
from lossbalance._utils.terms import Terms, rows_of
from lossbalance._utils.transforms import refuse_transforms
from lossbalance.gradients.data_parallel import active_wrapper
from lossbalance.gradients.first_steps import FIRST_STEPS, find_near_minimum, measure_ahead
from lossbalance.gradients.measurement import ColumnProbe, Measurement, Probe, is_in_backward, version
from lossbalance.gradients.norms import NormAccumulator
from lossbalance.gradients.pending import PendingNorms, average_over_ranks
from lossbalance.gradients.traced import MeasurementLeaves, warn_unmeasured
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
        self.terms = terms if isinstance(terms, Terms) else tuple(terms)
        self.placed: set[str] = set()  # terms that a probe was placed for, if they met it or not
        self.probed: set[str] = set()  # terms that have met a probe
        self.known: set[str] = set()  # terms whose first steps are over
        self.early: dict[str, int] = {}  # those of terms that started near their minimum, so far
        self.magnitudes = False  # whether the scheme uses them
        self._start()
        self.has_committed = False  # whether a backward pass of a total has been measured
        self._has_warned = False
        self._is_awaited = False  # whether a compiled step expects a backward pass that it measures
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

    def _start(self) -> None:
        self.running: list[Measurement] = []
        """The steps whose backward pass is running."""
        self.open = self.begun = Measurement(len(self.terms), self.running)
        self.open.called = True

    def join(self) -> Measurement:
        """Returns the step that a probe belongs to: the open one, or that of the backward pass that recomputes it."""
        if not torch.compiler.is_compiling():
            if is_in_backward():
                return self.running[-1] if self.running else self.open
            self._drop(self.running)  # of a backward pass that has raised
        if self.open.called:
            self.open = Measurement(len(self.terms), self.running)
        return self.open

    def attach_probe(self, term: str, x: Tensor) -> Tensor:
        """Returns ``x``, with a probe of ``term``."""
        if not (self.training and torch.is_grad_enabled()):
            self._check(term, x)
            return x
        return self._attach(term, [x])[0]

    def attach_columns(self, term: str, x: Tensor, weight: Tensor | None) -> Tensor:
        """Returns ``x``, with a probe of each term of a row on its column."""
        columns = rows_of(self.terms).get(term)
        if columns is None or x.ndim == 0 or x.size(-1) != len(columns):
            rows = {name: len(names) for name, names in rows_of(self.terms).items()}
            raise ValueError(
                f"`x` must have a column in its last dimension for each term of a row, got {term!r} with shape "
                f"{list(x.shape)}: the rows are {rows}, as the scheme was made, `GradBalance({{{term!r}: 500}})`."
            )
        self._check(columns[0], x)
        if not (self.training and torch.is_grad_enabled()):
            return x
        if torch.compiler.is_compiling():
            raise ValueError("`probe_columns` cannot be compiled: leave the step uncompiled, or probe what enters it.")
        step = self.register([columns[0]], x, count=False)
        if columns[-1] not in self.probed:
            self.probed.update(columns)
        first = self._index[columns[0]]
        if self.magnitudes:
            step.entries[first : first + len(columns)] = [x.numel() // len(columns)] * len(columns)
        scale = None if weight is None else torch.linalg.vector_norm(weight.detach(), dim=1)
        return ColumnProbe.apply(x, self.leaves.sizes, step, first, scale)

    def register(self, terms: Sequence[str], x: Tensor, count: bool = True) -> Measurement:
        """Registers ``x`` as a tensor by which the gradient of each of the terms is measured; returns its step."""
        for term in terms:
            self._check(term, x)
        refuse_transforms("to probe an activation")
        if x.device != self.device:
            raise ValueError(f"`x` is on {x.device}, the criterion on {self.device}: move it with `.to(device)`.")
        self.probed.update(terms)
        step = self.join()
        step.wrapper = active_wrapper() or step.wrapper
        if x.dtype == torch.float16:
            self._half = True
        if count and step.accumulator is None:
            for term in terms:
                step.entries[self._index[term]] += x.numel()
        return step

    def alias(self, term: str, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the parameters as all forward passes of ``term`` see them in the open step."""
        aliases, index = self.join().aliases, self._index[term]
        now = {id(parameter): version(parameter) for parameter in parameters.values()}
        known = {key[1] for key, (then, _) in aliases.items() if key[0] == index and then == now.get(key[1])}
        new = [parameter for parameter in parameters.values() if id(parameter) not in known]
        counts = [(index, id(parameter)) not in aliases for parameter in new]
        for parameter, probed in zip(new, self._attach(term, new, counts) if new else (), strict=True):
            aliases[index, id(parameter)] = now[id(parameter)], probed
        return {name: aliases[index, id(parameter)][1] for name, parameter in parameters.items()}

    @property
    def wrapper(self) -> DistributedDataParallel | None:
        """The data-parallel wrapper in whose forward pass the open step has met a probe."""
        return self.open.wrapper

    def call(self) -> None:
        """Closes the open step to further probes, also if the call fails; one that has ended gets a successor."""
        if self.open.ended and not torch.compiler.is_compiling():
            self.open = self.open.succeed()
        self.open.called = True

    @property
    def is_observed(self) -> bool:
        """Whether the open step was observed already, by a call whose backward pass is still to come."""
        return self.open.observed

    def last_step(self, losses: Losses) -> tuple[Tensor, Tensor]:
        """Returns what the last backward pass has measured, reduced over ranks, and marks it as observed.

        Args:
            losses: The losses of the step at hand.

        Returns:
            Losses, norms and perhaps magnitudes ``[2 or 4, terms]``, and whether a loss of the step at hand is not
            finite on any rank, ``[]``.
        """
        values = losses.row.detach()
        self._check_measured()
        self.pending.resize(self.magnitudes, values)
        rows, non_finite = self.pending.all_reduce(is_non_finite(values))
        self.pending.mark_observed(non_finite)
        step = self.open
        step.skip_commit, step.observed, step.expected = non_finite, True, len(losses.names) > 0
        return rows, non_finite

    def ahead(self, losses: Losses) -> tuple[Tensor, Tensor]:
        """Measures the step at hand ahead of its backward pass, and returns it as :meth:`last_step` does."""
        values = losses.row.detach()
        self.pending.resize(self.magnitudes, values)
        step, given = self.open, losses.by_term()
        measured = measure_ahead(given, step, self.leaves.sizes, self.terms, self.magnitudes, self._half)
        rows = torch.cat([values.unsqueeze(0), measured])
        rows, non_finite = average_over_ranks(rows, losses.present, is_non_finite(values), self.ranks)
        self.pending.discard(non_finite)
        self._count_step(losses.names, rows, ~non_finite & measured.isfinite().all())
        step.observed = step.expected = True
        if not self.known.issuperset(losses.names):  # or else the next step would observe this one again
            step.skip_commit = non_finite
        return rows, non_finite

    def synchronize(self) -> None:
        """Reduces what the last backward pass has measured over ranks, ahead of the next step."""
        self.pending.all_reduce(torch.zeros((), dtype=torch.bool, device=self.device))

    def norms(self, step: Measurement) -> Tensor:
        """Returns the norms of the weighted losses that the backward pass of a step has measured, up to a factor.

        nan for a term without probe, and before the backward pass.
        """
        found = step.norms
        if found is None:
            return torch.full((len(self.terms),), torch.nan, device=self.device, dtype=torch.float32)
        if len(self.probed) == len(self.terms):
            return found
        probed = torch.tensor([term in self.probed for term in self.terms])
        return found.where(probed.to(self.device, non_blocking=True), torch.nan)

    def begin_step(self, row: Tensor, commit: bool = True) -> Tensor:
        """Lets the backward pass that comes through ``row`` be measured.

        Args:
            row: The losses ``[terms]``.
            commit: Whether the next step is to observe the norms.

        Returns:
            The row that the total is to be made of.
        """
        self.begun = step = self.open
        if torch.compiler.is_compiling():
            step.losses = row.detach()
            self._is_awaited = step.expected
            return row + self.leaves.weights
        self.leaves.clear()
        if row.requires_grad:
            skip_commit = step.skip_commit if commit else None
            row.register_hook(partial(self._on_backward_start, step, row.detach(), skip_commit))
        return row

    def _attach(self, term: str, tensors: Sequence[Tensor], counts: Sequence[bool] = (True,)) -> Sequence[Tensor]:
        steps = [self.register([term], x, is_new) for x, is_new in zip(tensors, counts, strict=True)]
        index = self._index[term]
        if torch.compiler.is_compiling():
            return self.leaves.attach(tensors, index, self.open.column([index], self.magnitudes), self.magnitudes)
        return [Probe.apply(x, self.leaves.sizes, step, index) for x, step in zip(tensors, steps, strict=True)]

    def _on_backward_start(self, step: Measurement, losses: Tensor, skip: Tensor | None, weights: Tensor) -> None:
        """Begins to accumulate: the backward pass of a total has come to the losses, with its gradient by each."""
        task, weights = torch._C._current_graph_task_id(), weights.detach()
        self._drop([other for other in self.running if other.task != task])
        if step.accumulator is not None and step.weights is not None:  # two totals of one step in one pass
            step.weights = step.weights + weights
            return
        step.accumulator, step.task = NormAccumulator(step.entries, self.magnitudes), task
        step.weights, step.products = weights, None
        self.running.append(step)
        queue_callback = torch.autograd.Variable._execution_engine.queue_callback
        queue_callback(partial(self._on_backward_end, step, losses, skip))

    def _on_traced_backward_start(self, weights: Tensor) -> None:
        step, self._is_awaited = self.begun, False
        if step.losses is not None:
            self._on_backward_start(step, step.losses, step.skip_commit, weights)

    @torch.no_grad()
    def _on_backward_end(self, step: Measurement, losses: Tensor, skip: Tensor | None) -> None:
        """Commits what has been accumulated: the backward pass has ended."""
        accumulator, weights = step.accumulator, step.weights
        if accumulator is None or weights is None:
            return
        self._drop([step])
        step.ended = True
        for index, sizes in enumerate(self.leaves.take()):
            accumulator.add_measured(index, sizes.unbind())
        measured = accumulator.rows()
        if measured is None:
            return
        self.has_committed = True
        step.norms = measured[0]
        if skip is not None:
            self.pending.commit(torch.cat([losses.unsqueeze(0), (measured / weights).abs()]), skip)

    def _drop(self, steps: list[Measurement]) -> None:
        """Ends the measurement of steps whose backward pass has ended or raised."""
        for step in list(steps):
            step.accumulator = step.weights = None
            if step in self.running:
                self.running.remove(step)

    def _check_measured(self) -> None:
        """Warns once if the scheme needs the norms of the last step, and its backward pass has met no probe."""
        if torch.compiler.is_compiling():
            if self._is_awaited:  # the graph is compiled anew for this
                warn_unmeasured()
            return
        step = self.begun
        if step.expected and step.ended and step.norms is None and not self._has_warned:
            self._has_warned = True
            warn_unmeasured()

    def _count_step(self, names: Sequence[str], rows: Tensor, finite: Tensor) -> None:
        """Counts a step that was measured ahead, unless it is not finite: then the next one is measured ahead, too.

        Synchronizes with the device, once in a training for each term; never inside a compiled graph.
        """
        for term in [term for term in names if term in self.early]:
            self.early[term] += 1
            if self.early[term] >= FIRST_STEPS:
                self.known.add(term)
        new = {term for term in names if self.is_new(term)}
        if torch.compiler.is_compiling():
            self.known.update(new)
        elif new:
            is_finite, *values = torch.cat([finite.unsqueeze(0), rows[:2].flatten()]).tolist()
            if is_finite:
                near = find_near_minimum(values[: len(self.terms)], values[len(self.terms) :])
                self.early.update(
                    {term: 1 for term, is_near in zip(self.terms, near, strict=True) if is_near & (term in new)}
                )
                self.known.update(new - self.early.keys())

    def is_new(self, term: str) -> bool:
        """Returns whether the norm of a term was never measured."""
        return term not in self.known and term not in self.early

    def _check(self, term: str, x: Tensor) -> None:
        if term in rows_of(self.terms):
            raise ValueError(f"{term!r} is a row of terms: probe the prediction by `criterion.probe_columns`.")
        if term not in self._index:
            check_choice("term", term, self.terms)
        if not (x.is_floating_point() or x.is_complex()):
            raise TypeError(f"`x` must be an activation in floating point, got {x.dtype}: probe what enters a head.")

    def get_extra_state(self) -> Tensor:
        """The norms not yet observed, and the part of each term's first steps that is over: ``[5, terms]``."""
        rows = self.pending.state()
        over = [1.0 if term in self.known else self.early.get(term, 0) / FIRST_STEPS for term in self.terms]
        return torch.cat([rows, rows.new_tensor([over])])

    def set_extra_state(self, state: Tensor) -> None:
        """Restores what :meth:`get_extra_state` returned."""
        if self._marker.is_meta:  # and the state is assigned
            self._marker = torch.empty(0, device=state.device)
            self.move()
        self.pending.load(state[:-1])
        over = dict(zip(self.terms, state[-1].tolist(), strict=True))
        self.known = {term for term, part in over.items() if part >= 1}
        self.early = {term: round(part * FIRST_STEPS) for term, part in over.items() if 0 < part < 1}

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
        return {**self.__dict__, "open": None, "begun": None, "running": None, "leaves": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._start()
        self.leaves = MeasurementLeaves(len(self.terms), self.device, self._on_traced_backward_start)
