"""Several named losses in, one scalar out, and a record of what each weighed."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lossbalance._utils.checks import check_names
from lossbalance.breakdown import Breakdown, Step, tabulate
from lossbalance.gradients.observing import Watch, average_over_ranks, observe_gradients, observe_losses
from lossbalance.gradients.probes import ProbeHandle, Probes, to_device
from lossbalance.penalties.attachment import Attachment
from lossbalance.penalties.base import Penalty
from lossbalance.penalties.report import PenaltyReport, report
from lossbalance.scale import LossSum, check_sum
from lossbalance.weighting.base import Observation, Weighting


class WeightedLoss(nn.Module):
    """Combines the losses of a step into one scalar, by a weighting scheme, and adds penalties.

    Args:
        weighting: The scheme, made from the names of the terms.
        penalties: Regularizers on parameters by name; they need ``module`` in the call.
        weight_sum: If given, the weights are rescaled to add up to it, so that schemes compare at the same
            learning rate. Penalties are not rescaled.
        loss_sum: If given, the weights are rescaled so that the weighted losses, averaged over steps, add up to it: as
            the losses fall, the weights grow. This alone gained up to 27 % over the best fixed weights on tables, a
            learning rate in disguise; so give it to all schemes that are compared, or to none.

    Raises:
        TypeError: If ``weighting`` is not a scheme, a penalty not a penalty, or a sum not a number.
        ValueError: If a sum is not positive and finite, or both are given, or a penalty has the name of a term.

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
    ) -> None:
        super().__init__()
        if not isinstance(weighting, Weighting):
            raise TypeError(f"`weighting` must be a scheme such as Equal(['aux', 'main']), got {weighting!r}.")
        _check_penalties(penalties or {}, weighting.terms)
        self.terms = weighting.terms
        """Names of the losses, in the order of the row."""
        self.weighting = weighting
        self.penalties = nn.ModuleDict(penalties or {})
        self.weight_sum, self.loss_sum = check_sum("weight_sum", weight_sum), check_sum("loss_sum", loss_sum)
        if self.weight_sum is not None and self.loss_sum is not None:
            raise ValueError("`weight_sum` and `loss_sum` are two scales for the same weights: give one of them.")
        self.scale = None if self.loss_sum is None else LossSum(self.loss_sum, len(self.terms))
        self.probes = Probes(weighting.terms)
        self._last: Step | None = None

    def forward(
        self,
        losses: Mapping[str, Tensor | None],
        module: nn.Module | None = None,
        shared: Tensor | Iterable[Tensor] | None = None,
    ) -> Tensor:
        """Returns the total of one step; call ``backward()`` on it.

        Args:
            losses: Each term's loss by name, a scalar in floating point; None for a term that this batch lacks.
            module: What the penalties are computed on.
            shared: Activations or parameters with respect to which a gradient scheme takes its norms in this very step,
                by ``torch.autograd.grad``: one partial backward pass per term, on top of the ordinary one. For terms
                that pass no common activation; where they do, probes cost nothing. Other schemes ignore it.

        Returns:
            The total ``[]``, in fp32 or wider.

        Raises:
            TypeError: If a loss is not a tensor in floating point.
            ValueError: If a term is missing or unknown, a loss is not a scalar or on another device than the rest,
                ``module`` is missing, or a gradient scheme has nothing to take norms from.
        """
        row, present = self._row(losses)
        values = row.detach()
        watch = self._observe([losses[term] for term in self.terms], values, present, shared)
        total, weights = self.weighting.weigh(row, present)
        if self.weight_sum is not None:
            factor = self.weight_sum / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
            total, weights = total * factor, weights * factor
        if self.scale is not None:
            factor = self.scale(self.weighting).to(weights.dtype)
            total, weights = total * factor, weights * factor
        penalties = self._penalize(total, module)
        for penalty in penalties.values():
            total = total + penalty
        detached = {name: penalty.detach() for name, penalty in penalties.items()}
        squares = None if watch is None or watch.norms is None else (weights * watch.norms).square()
        self._last = Step(total.detach(), values, weights, present, detached, squares)
        if watch is None:
            return self.probes.gauges.mark(total) if self.training and self.probes.probed else total
        if watch.norms is not None:
            return total
        counted = weights if watch.measures else torch.zeros_like(weights)
        return self.probes.gauges.seal(total, values, counted, watch.broken)

    def probe(self, term: str, x: Tensor) -> Tensor:
        """Marks ``x`` as the activation at which the gradient of ``term`` is measured.

        Put it where the term's own branch begins, and use what it returns for that branch alone::

            h = trunk(x)
            aux = aux_head(criterion.probe("aux", h))
            main = main_head(criterion.probe("main", h))

        It is the identity, costs one norm in the backward pass of the total, the one in which it measures, and does
        nothing in ``eval()``. Several probes of one term add up in squares. What it returns must not be changed in
        place, as ``nn.ReLU(inplace=True)`` would do at the start of a branch.

        Args:
            term: The name of the term.
            x: The activation, of any shape.

        Returns:
            ``x``, to be used in its place.

        Raises:
            TypeError: If ``x`` is not in floating point.
            ValueError: If the term is unknown or ``x`` on another device than the criterion.
        """
        return self.probes.probe(term, x, ahead=self.weighting.uses_gradients)

    def probe_inputs(self, modules: Mapping[str, nn.Module]) -> ProbeHandle:
        """Places a probe before each module, for models that are not to be edited.

        Args:
            modules: The module in which each term's own branch begins, such as its head, by term.

        Returns:
            A handle whose ``remove()`` takes the probes away.

        Raises:
            ValueError: If a term is unknown.
        """
        return self.probes.probe_inputs(modules, self.probe)

    def parameter_groups(self, lr: float | None = None) -> list[dict[str, Any]]:
        """Returns what the optimizer must hold of a scheme that learns its weights; nothing for the others.

        ::

            groups = [{"params": net.parameters()}, *criterion.parameter_groups()]
            optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1)

        Weight decay is off in the group, for it would pull every weight to where the scheme's parameters are 0.

        Args:
            lr: The group's own learning rate; None for the scheme's, or else that of the optimizer.
        """
        parameters = list(self.parameters())
        if not parameters:
            return []
        lr = self.weighting.learning_rate if lr is None else lr
        return [{"params": parameters, "weight_decay": 0.0} | ({} if lr is None else {"lr": lr})]

    def attach(self, optimizer: Optimizer, module: nn.Module) -> Attachment:
        """Lets each step of the optimizer apply the penalties in mode ``"gradient"`` or ``"decoupled"`` to ``module``.

        Call it once, when the optimizer is made; there is nothing else to do, also with closures, accumulated batches
        and gradient scalers. See :class:`~lossbalance.penalties.attachment.Attachment` for what happens when.

        Raises:
            ValueError: If it was called for this optimizer before, or the optimizer holds none of the weights.
        """
        return Attachment(self._penalties().values(), optimizer, module)

    def report_penalties(self) -> dict[str, PenaltyReport]:
        """Returns what each penalty weighs, in value and in gradient; see :func:`lossbalance.penalties.report.report`.

        Call it after ``backward()`` and before the optimizer's step, in steps that are logged.
        """
        return report(self._penalties(), torch.stack(list(self.last.contributions.values())))

    def synchronize(self) -> None:
        """Brings what the last backward pass measured together over ranks, ahead of the next step.

        Call it on every rank before one of them saves ``state_dict()``, after ``backward()``; the callbacks do. On a
        single process it is never needed.
        """
        if self.weighting.uses_gradients:
            gauges = self.probes.gauges
            with torch.no_grad():
                (measured,), _ = average_over_ranks([gauges.measured()], gauges.broken)
                gauges.settle(*measured)

    @property
    def last(self) -> Breakdown:
        """What made up the last total.

        Raises:
            RuntimeError: Before the first call.
        """
        step = self.last_step()
        if step is None:
            raise RuntimeError("`last` describes the last call, and there was none: call the criterion first.")
        losses, weights, contributions, gradient_shares = map(self._by_name, tabulate([step])[0])
        return Breakdown(
            total=step.total,
            losses=losses,
            weights=weights,
            contributions=contributions,
            gradient_shares={} if step.squares is None else gradient_shares,
            measure_penalties=lambda: {
                name: step.penalties[name] if name in step.penalties else penalty.value()
                for name, penalty in self._penalties().items()
            },
        )

    def last_step(self) -> Step | None:
        """Returns the last call in the form that costs least, for statistics over many; None before the first."""
        if self._last is None or self._last.squares is not None or not self.probes.probed:
            return self._last
        return self._last._replace(squares=self.probes.squares())

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights of the last call, detached; before the first, those that losses of 1 would get."""
        if self._last is not None:
            return self._by_name(self._last.weights)
        ones = torch.ones(len(self.terms), device=self.probes.device)
        _, weights = self.weighting.weigh(ones, ones > 0)
        return self._by_name(weights.detach())

    def _penalize(self, total: Tensor, module: nn.Module | None) -> dict[str, Tensor]:
        """Returns the penalties that belong to the total."""
        values = {}
        for name, penalty in self._penalties().items():
            if penalty.mode != "loss":
                self._leave_to_the_optimizer(name, penalty, module)
                continue
            if module is None:
                raise ValueError(f"`module` must be given for the penalty {name!r}, got None.")
            if self.training and total.requires_grad:
                penalty.update_share(total, module)
            values[name] = penalty(module)
        return values

    def _leave_to_the_optimizer(self, name: str, penalty: Penalty, module: nn.Module | None) -> None:
        if torch.compiler.is_compiling():
            return
        if module is not None:
            penalty.remember_module(module)
        if self.training and self._last is not None and not penalty.is_applied:
            warnings.warn(
                f"nobody applies the penalty {name!r}, which is in mode {penalty.mode!r}: call "
                "`criterion.attach(optimizer, module)` once, when the optimizer is made.",
                stacklevel=5,
            )

    def _penalties(self) -> dict[str, Penalty]:
        return cast("dict[str, Penalty]", dict(self.penalties.items()))

    def _row(self, losses: Mapping[str, Tensor | None]) -> tuple[Tensor, Tensor]:
        """Returns the losses and whether each is there, in the order of the terms."""
        if losses.keys() != set(self.terms):
            check_names("losses", losses, self.terms)
        device = self.probes.device
        given: dict[str, Tensor] = {}
        for term in self.terms:
            loss = losses[term]
            if loss is not None:
                _check_loss(term, loss, device)
                given[term] = loss
        dtypes = {loss.dtype for loss in given.values()}
        dtype = torch.float64 if torch.float64 in dtypes else torch.float32
        if dtypes != {dtype}:
            given = {term: loss.to(dtype) for term, loss in given.items()}
        if len(given) == len(self.terms):
            row = torch.stack(list(given.values()))
            return row, torch.ones_like(row, dtype=torch.bool)
        absent = torch.zeros((), dtype=dtype, device=device, requires_grad=not given)
        row = torch.stack([given.get(term, absent) for term in self.terms])
        return row, to_device([term in given for term in self.terms], device)

    @torch.no_grad()
    def _observe(
        self,
        losses: list[Tensor | None],
        row: Tensor,
        present: Tensor,
        shared: Tensor | Iterable[Tensor] | None,
    ) -> Watch | None:
        """Lets the scheme see the step, in training; returns what a gradient scheme has found."""
        if not self.training:
            return None
        if self.weighting.uses_gradients:
            return observe_gradients(self.weighting, self._show, self.probes, losses, row, present, shared)
        if self.weighting.observes or self.scale is not None:
            observe_losses(self._show, row, present)
        if self.probes.probed:
            self.probes.gauges.begin()
        return None

    def _show(self, observation: Observation) -> None:
        self.weighting.observe(observation)
        if self.scale is not None:
            self.scale.observe(observation)

    def _by_name(self, row: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.terms, row.unbind(), strict=True))


def _check_loss(term: str, loss: object, device: torch.device) -> None:
    if not isinstance(loss, Tensor) or not loss.is_floating_point():
        kind = str(loss.dtype) if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(
            f"`losses[{term!r}]` must be a scalar tensor in floating point, got {kind}: pass None for an absent term."
        )
    if loss.ndim != 0:
        raise ValueError(
            f"`losses[{term!r}]` must be a scalar, got shape {list(loss.shape)}: reduce it with `.mean()` or `.sum()`."
        )
    if loss.device != device:
        raise ValueError(
            f"`losses[{term!r}]` is on {loss.device}, the criterion on {device}: all must be on one device; "
            "move them with `.to(device)`."
        )


def _check_penalties(penalties: Mapping[str, Penalty], terms: tuple[str, ...]) -> None:
    for name, penalty in penalties.items():
        if not isinstance(penalty, Penalty):
            raise TypeError(f"`penalties[{name!r}]` must be a penalty such as L2(1e-4), got {penalty!r}.")
        if name in terms:
            raise ValueError(f"`penalties` must have names of their own, got {name!r}, which is a term.")
