"""WeightedLoss: combines named losses into one scalar by a weighting scheme."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lossbalance._utils.checks import check_choice
from lossbalance._utils.distributed import Ranks
from lossbalance._utils.terms import names_of, rows_of
from lossbalance._utils.transforms import is_exporting, is_transforming
from lossbalance.conflict.base import Aggregator
from lossbalance.criterion.breakdown import Breakdown, Step, by_name, make_breakdown
from lossbalance.criterion.factors import Factors, check_factor
from lossbalance.criterion.fixed_terms import FixedTerms
from lossbalance.criterion.loss_sum import LossSum, check_sum
from lossbalance.criterion.losses import LossReader
from lossbalance.criterion.optimizer_check import check_optimizers
from lossbalance.criterion.parameter_groups import parameter_groups
from lossbalance.criterion.state import describe, materialize, prepare_state, read_factors
from lossbalance.criterion.step_warnings import StepWarnings
from lossbalance.gradients.branch import Branches
from lossbalance.gradients.branch_output import BranchHandle
from lossbalance.gradients.data_parallel import average_learned, check_even_inputs, find_wrapper, touch_unused
from lossbalance.gradients.inputs import ProbedModule, ProbeHandle
from lossbalance.gradients.probes import Probes
from lossbalance.gradients.sources import StepObservation, choose_source
from lossbalance.penalties.attachment import Attachment
from lossbalance.penalties.base import Penalty
from lossbalance.penalties.collection import Penalties
from lossbalance.penalties.report import PenaltyReport, report
from lossbalance.weighting.base import Losses, Weighting
from lossbalance.weighting.fixed import Fixed


class WeightedLoss(nn.Module):
    """Combines the losses of a step into one scalar, by a weighting scheme, and adds penalties.

    Args:
        weighting: The scheme, made from the names of the terms.
        penalties: Regularizers on parameters by name; they need ``module`` in the call.
        weight_sum: If given, the weights are rescaled to add up to it, so that schemes compare at the same
            learning rate. Penalties are not rescaled.
        loss_sum: If given, the weights are rescaled so that the weighted losses, averaged over steps, add up to it: as
            the losses fall, the weights grow, a learning rate in disguise: give it to all schemes that are compared.
            It suits Adam. Under SGD at a constant rate prefer ``weight_sum``, which ended 2.9 % lower there on average
            (``scripts/study.py budget``). Clipping at a norm cancels it.
        conflict: What the gradients of the terms are combined by at the branch; None is the plain sum.
        process_group: The ranks that share the terms, or a callable that returns them; None is all ranks. Where some
            have no losses, as under pipeline parallelism, give the ranks that do.
        fixed: Weights of terms beside those of the scheme: priors, KL terms, losses whose weight means something. No
            scheme weighs them, and no sum rescales them; in every other way they are terms.

    Raises:
        TypeError: If ``weighting`` is not a scheme, a penalty not a penalty, a sum or fixed weight not a number, or
            ``process_group`` not a group.
        ValueError: If a sum is not positive and finite, or both are given, a penalty has the name of a term, or a term
            of ``fixed`` is one of the scheme's or has a negative weight.

    Example:
        >>> from lossbalance.weighting import Alpha
        >>> criterion = WeightedLoss(Alpha(["aux", "main"], alpha=0.25))
        >>> criterion({"aux": torch.tensor(2.0), "main": torch.tensor(4.0)}).item()
        3.5
        >>> {term: contribution.item() for term, contribution in criterion.last.contributions.items()}
        {'aux': 0.5, 'main': 3.0}
    """

    def __init__(
        self,
        weighting: Weighting,
        penalties: Mapping[str, Penalty] | None = None,
        weight_sum: float | None = None,
        loss_sum: float | None = None,
        conflict: Aggregator | None = None,
        process_group: Any = None,
        fixed: Mapping[str, float] | None = None,
    ) -> None:
        if not isinstance(weighting, Weighting):
            raise TypeError(f"`weighting` must be a scheme such as Equal(['aux', 'main']), got {weighting!r}.")
        if not isinstance(conflict, Aggregator | None):
            raise TypeError(f"`conflict` must be an aggregator such as PCGrad() or None, got {conflict!r}.")
        super().__init__()
        self.weighting, self.conflict = weighting, conflict
        self.fixed = FixedTerms(weighting.terms, fixed) if fixed or not isinstance(fixed, Mapping | None) else None
        self.terms = weighting.terms if self.fixed is None else weighting.terms + self.fixed.terms
        if conflict is not None:
            conflict.set_terms(self.terms)
        self._process_group = process_group
        self.ranks = weighting.ranks = Ranks(process_group)
        self.probes = Probes(self.terms, self.ranks)
        self.probes.magnitudes = weighting.uses_magnitudes
        self.branches = Branches(self.probes)
        self.penalties = Penalties(penalties, self.terms)
        for penalty in self.penalties.by_name.values():
            penalty.ranks = self.ranks
        self.weight_sum, self.loss_sum = check_sum("weight_sum", weight_sum), check_sum("loss_sum", loss_sum)
        if self.weight_sum is not None and self.loss_sum is not None:
            raise ValueError("`weight_sum` and `loss_sum` are two scales for the same weights: give one of them.")
        self.scale = None if self.loss_sum is None else LossSum(self.loss_sum, weighting.terms)
        self._reader = LossReader(self.terms)
        self._factors = Factors(self.terms)
        self._frozen = 0  # how many times over
        self._last: Step | None = None
        self.step_warnings = StepWarnings()
        self._averaged: set[int] = set()  # parameters whose gradients are averaged over ranks
        self._is_loaded = False  # whether a state has been loaded

    def forward(
        self,
        losses: Mapping[str, Tensor | None],
        module: nn.Module | None = None,
        shared: Tensor | Iterable[Tensor] | None = None,
    ) -> Tensor:
        """Returns the total of one step, in fp32 or wider; call ``backward()`` on it.

        Args:
            losses: Each term's loss by name, a scalar in floating point; None for a term that this batch lacks.
            module: What the penalties are computed on.
            shared: Activations or parameters with respect to which a gradient scheme takes its norms in this very step,
                by ``torch.autograd.grad``: one partial backward pass per term, on top of the ordinary one. For terms
                that pass no common activation; where they do, probes cost nothing. Other schemes ignore it.

        Raises:
            TypeError: If a loss is not a tensor in floating point.
            ValueError: If a term is missing or unknown, a loss is not a scalar or on another device than the rest,
                ``module`` is missing, or a gradient scheme has nothing to take norms from.
        """
        self._materialize()
        if self.training:
            self.probes.call()
        given = self._reader.read(self._factors.detach(losses), self.probes.device)
        active = self._factors.mask(given)
        wrapper = find_wrapper(module, self.probes.wrapper)
        warns = self.training and not (self._frozen or torch.compiler.is_compiling()) and torch.is_grad_enabled()
        if warns:
            self.step_warnings.begin_step(active.given, self.weighting)
        seen = self._observe(active, shared, wrapper)
        if warns:
            self.step_warnings.end_step(self.weighting)
        row = active.row
        if self.training and self.probes.probed:
            row = self.probes.begin_step(row, commit=not self._frozen)
        is_complete = len(active.names) == len(self.terms)
        total, weights = self._weigh(self._factors.scale_gradient(row), active.present, is_complete)
        total, weights = self._factors.scale_value(total, weights, row)
        if self.training:
            total = self._connect_branches(total, wrapper)
        penalties = self.penalties.in_total(total, module, warn=self._last is not None)
        total = sum(penalties.values(), start=total)
        if self.training and self.ranks.size > 1 and not torch.compiler.is_compiling():
            average_learned(self.weighting, wrapper, self._averaged, self.ranks)
        if wrapper is not None and self.training and len(given.names) < len(self.terms):
            total = touch_unused(total, wrapper)
        norms = None if seen is None or seen.norms is None else weights * seen.norms
        detached = {name: penalty.detach() for name, penalty in penalties.items()}
        if not (is_exporting() or is_transforming()):
            step = self.probes.open if self.training else None
            self._last = Step(total.detach(), given.row.detach(), weights, given.present, detached, norms, step)
        return total

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Lets the scheme observe nothing: ``with criterion.frozen():`` weights stay as they are, to try a step out."""
        self._frozen += 1
        try:
            yield
        finally:
            self._frozen -= 1

    def probe(self, term: str, x: Tensor) -> Tensor:
        """Marks ``x`` as the activation at which the gradient of ``term`` is measured.

        Put it where the term's own branch begins, ``aux_head(criterion.probe("aux", h))``, and use what it returns,
        ``x``, for that branch alone, unchanged in place. It costs one norm in the backward pass of the total, and
        nothing in ``eval()``. Several probes of one term add up in squares. A loss on derivatives of what was probed
        needs :meth:`probe_parameters`.

        Raises:
            TypeError: If ``x`` is not in floating point.
            ValueError: If the term is unknown or ``x`` on another device than the criterion.
        """
        return self.probes.attach_probe(term, x)

    def probe_columns(self, term: str, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Marks ``x`` as the prediction whose columns, its last dimension, are the terms of a row: one norm for each.

        ``criterion({"channel": (criterion.probe_columns("channel", prediction) - y).square().mean(dim=0), ...})``. Each
        loss of the row must depend on its own column alone. The norms are those by ``x``; with the ``weight`` of a last
        linear layer, ``[terms, features]``, those by what enters that layer.

        Raises:
            TypeError: If ``x`` is not in floating point.
            ValueError: If the term is no row, or has another number of columns than ``x``.
        """
        return self.probes.attach_columns(term, x, weight)

    def probe_inputs(self, modules: Mapping[str, nn.Module]) -> ProbeHandle:
        """Places a probe before the module in which each term's branch begins, by hooks, until ``handle.remove()``.

        Every tensor that enters the module and requires a gradient is probed, also in containers and dataclasses.

        Raises:
            TypeError: If it is not a mapping to modules.
            ValueError: If a term is unknown, or a module begins with a layer that works in place.
        """
        return ProbeHandle(modules, self.probes)

    def probe_parameters(self, term: str, module: nn.Module) -> ProbedModule:
        """Returns a callable that runs ``module`` with its parameters seen through probes of ``term``.

        It is for terms with forward passes of their own, also where a loss is made of derivatives; several terms may
        share the module; see :class:`~lossbalance.gradients.inputs.ProbedModule`.

        Raises:
            TypeError: If it is not a module, or one of ``fully_shard``, whose parameters are in parts.
            ValueError: If the term is unknown, or no parameter requires a gradient.
        """
        return ProbedModule(module, term, self.probes)

    def branch(self, h: Tensor) -> dict[str, Tensor]:
        """Returns ``h`` for each term; in the backward pass ``conflict`` combines the terms' gradients there.

        Put it where the terms part: ``h = criterion.branch(trunk(x))``, ``aux_head(h["aux"])``. The layers before
        it get the combination, the heads keep their own gradients. It is a probe of each term, too, and
        ``last.cosines`` has the cosines. Under an activation checkpoint use ``use_reentrant=False``. In ``eval()`` and
        without gradients it is the identity.

        Raises:
            TypeError: If ``h`` is not in floating point.
            ValueError: If ``h`` is on another device than the criterion.
        """
        return self.branches.split(h, self.conflict)

    def branch_output(self, module: nn.Module, heads: Mapping[str, nn.Module]) -> BranchHandle:
        """Places :meth:`branch` between ``module``, which all terms share, and each term's head, by hooks.

        Raises:
            ValueError: If a term is unknown; in a step, if the heads are not entered by one tensor.
        """
        return BranchHandle(module, heads, self.branch, self.branches)

    def branch_parameters(self, module: nn.Module) -> dict[str, Callable[..., Any]]:
        """Returns, for each term, a callable that runs ``module``: the branch is at its parameters.

        It is for terms with forward passes of their own; make the callables once, call them as often as a term needs.

        Raises:
            TypeError: If it is not a module, or one of ``fully_shard``, whose parameters are in parts.
            ValueError: If no parameter requires a gradient.
        """
        return self.branches.split_parameters(module, self.conflict)

    def set_factor(self, name: str, factor: float) -> None:
        """Multiplies the weight that the scheme gives a term, or the strength of a penalty, from the next step on.

        The factor is in the state, and the scheme learns as without it; 0 makes a term absent to the scheme.

        Raises:
            TypeError: If the factor is not a number.
            ValueError: If the name is unknown, or the factor negative or not finite.
        """
        columns = rows_of(self.terms).get(name, (name,))
        check_choice("name", name, dict.fromkeys([*self.terms, *names_of(self.terms), *self.penalties]))
        if columns[0] in self.terms:
            for term in columns:
                self._factors.set_factor(term, check_factor(name, factor))
        else:
            self.penalties.by_name[name].factor = check_factor(name, factor)

    @property
    def factors(self) -> dict[str, float]:
        """The factors of terms and penalties."""
        penalties = {name: penalty.factor for name, penalty in self.penalties.by_name.items()}
        return {term: self._factors.by_name.get(term, 1.0) for term in self.terms} | penalties

    def parameter_groups(self, lr: float | None = None) -> list[dict[str, Any]]:
        """Returns the parameter groups of a scheme that learns its weights, without weight decay; none for the others.

        ``AdamW([{"params": net.parameters()}, *criterion.parameter_groups()], lr=1e-3)``; ``lr`` is the group's own
        learning rate, by default the scheme's, or else that of the optimizer.

        Raises:
            TypeError: If ``lr`` is not a number.
            ValueError: If it is not positive, or not finite.
        """
        return parameter_groups(list(self.parameters()), lr, self.weighting.learning_rate)

    def check(self, optimizer: Optimizer | Iterable[Optimizer]) -> None:
        """Refuses an optimizer, or several, that do not train what the scheme learns as they should.

        Raises:
            TypeError: If it is not an optimizer.
            ValueError: If a parameter of the scheme is in no parameter group, in several, or under weight decay.
        """
        check_optimizers(self.weighting, self.weighting.terms, optimizer)

    def attach(self, optimizer: Optimizer, module: nn.Module) -> Attachment:
        """Lets each step of the optimizer apply the penalties that are not in mode ``"loss"`` to ``module``.

        Where a step evaluates a closure several times, only the first evaluation is observed by the scheme. Call it
        once, when the optimizer is made; see :class:`~lossbalance.penalties.attachment.Attachment`.

        Raises:
            ValueError: If it was called for this optimizer before, or the optimizer holds none of the weights.
        """
        return Attachment(self.penalties.by_name.values(), optimizer, module, self.frozen)

    def report_penalties(self) -> dict[str, PenaltyReport]:
        """Returns value and gradient of each penalty; see :func:`lossbalance.penalties.report.report`.

        Call it after ``backward()`` and before the optimizer's step, in steps that are logged.
        """
        return report(self.penalties.by_name, torch.cat([each.view(-1) for each in self.last.contributions.values()]))

    def synchronize(self) -> None:
        """Reduces the norms of the last backward pass over ranks: on every rank, before one saves ``state_dict()``."""
        if self.weighting.uses_gradients:
            self.probes.synchronize()

    @property
    def last(self) -> Breakdown:
        """The parts of the last total.

        Raises:
            RuntimeError: Before the first call.
        """
        step = self.last_step()
        if step is None:
            raise RuntimeError("`last` describes the last call, and there was none: call the criterion first.")
        return make_breakdown(step, self.terms, self.penalties.by_name)

    def last_step(self) -> Step | None:
        """Returns the last call in the form that costs least, for statistics over many; None before the first."""
        last = self._last
        if last is None:
            return None
        step = last.measurement
        if step is not None and step.anchors:
            last = last._replace(products=self.branches.products(step))
        if step is not None and last.norms is None and self.probes.probed:
            last = last._replace(norms=self.probes.norms(step))
        return last

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights of the last call, detached; before the first, those that losses of 1 would get."""
        if self._last is not None:
            return by_name(self.terms, self._last.weights)
        ones = torch.ones(len(self.terms), device=self.probes.device, dtype=torch.float32)
        _, weights = self._weigh(ones, ones > 0, unseen=1.0)
        return by_name(self.terms, weights.detach() * self._factors.row)

    def to_fixed(self) -> "WeightedLoss":
        """Returns a criterion with the weights of the last call as constants, to resume or to reproduce with.

        A term that the last call lacked gets the weight that it would have had. Penalties and aggregator are shared;
        probes and branches have to be placed anew. It synchronizes with the device.

        Raises:
            RuntimeError: Before the first call.
        """
        if self._last is None:
            raise RuntimeError("`to_fixed` takes the weights of the last call, and there was none: train first.")
        with torch.no_grad():
            losses = self._last.losses
            _, weights = self._weigh(losses, torch.ones_like(losses, dtype=torch.bool))
        numbers = dict(zip(self.terms, (weights * self._factors.row).tolist(), strict=True))
        scheme, penalties = Fixed(self.terms, numbers).to(losses.device), self.penalties.by_name
        criterion = WeightedLoss(scheme, penalties, conflict=self.conflict, process_group=self._process_group)
        return criterion.to(losses.device).train(self.training)

    def extra_repr(self) -> str:
        """The settings."""
        return "" if self.weight_sum is None else f"weight_sum={self.weight_sum:g}"

    def _repr_html_(self) -> str:
        text = f"<pre>{escape(repr(self))}</pre>"
        return text if self._last is None else text + self.last._repr_html_()

    def get_extra_state(self) -> Tensor:
        """The names of the scheme and its terms, and the factors."""
        return describe(self.weighting, self.factors, self._fixed_names)

    def set_extra_state(self, state: Tensor) -> None:
        """Restores the factors."""
        saved = read_factors(state, self.weighting, self._fixed_names)
        for name in self.factors:
            self.set_factor(name, saved.get(name, 1.0))
        self._is_loaded = True

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        prepare_state(state_dict, prefix, self.weighting, self.factors, self._fixed_names)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _materialize(self) -> None:
        if self.probes.is_deferred and self.probes.device.type != "meta":
            materialize(self, self._is_loaded)
            self.probes.move()
            self.probes.is_deferred = False

    def _observe(
        self, losses: Losses, shared: Tensor | Iterable[Tensor] | None, wrapper: Any
    ) -> StepObservation | None:
        """Shows the scheme the step, in training; returns what was observed, or None."""
        if not self.training or self._frozen or not (self.weighting.observes or self.scale is not None):
            return None
        source = choose_source(self.weighting, self.probes, shared, wrapper)
        seen = source.observe(losses if self.fixed is None else self.fixed.hide(losses))
        if seen is None:
            return None
        if self.fixed is not None:
            norms = None if seen.norms is None else self.fixed.without_norms(seen.norms)
            seen = seen._replace(observation=self.fixed.crop(seen.observation), norms=norms)
        with torch.no_grad():
            self.weighting.observe(seen.observation)
            if self.scale is not None:
                self.scale.observe(seen.observation)
        return seen

    def _connect_branches(self, total: Tensor, wrapper: Any) -> Tensor:
        """Returns the total, connected to the branches of the step."""
        self.branches.adopt(total, self.conflict)
        if self.branches.has_opened:
            check_even_inputs(wrapper)
        return self.branches.close(total)

    @property
    def _fixed_names(self) -> tuple[str, ...]:
        return () if self.fixed is None else self.fixed.terms

    def _weigh(
        self, row: Tensor, present: Tensor, is_complete: bool = True, unseen: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Returns the total and the weights of the scheme, rescaled, and of the terms of known weight."""
        if self.fixed is None:
            return self._rescale(*self.weighting.weigh(row, present), row, is_complete, unseen)
        losses, count = row, self.fixed.count
        row, there = losses[:count], present[:count]
        total, weights = self._rescale(*self.weighting.weigh(row, there), row, is_complete, unseen)
        return self.fixed.add(total, weights, losses, present)

    def _rescale(
        self, total: Tensor, weights: Tensor, losses: Tensor, is_complete: bool = True, unseen: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Returns the total and the weights of the scheme, multiplied by the factor of ``weight_sum`` or ``loss_sum``.

        It is the factor of all weights, also where the step lacks a term.
        """
        if self.weight_sum is not None:
            everywhere = weights
            if not is_complete:
                with torch.no_grad():
                    _, everywhere = self.weighting.weigh(losses.detach(), torch.ones_like(losses, dtype=torch.bool))
            factor = self.weight_sum / everywhere.sum().clamp(min=torch.finfo(weights.dtype).tiny)
            total, weights = total * factor, weights * factor
        if self.scale is not None:
            factor = self.scale(self.weighting, unseen).to(weights.dtype)
            total, weights = total * factor, weights * factor
        return total, weights
