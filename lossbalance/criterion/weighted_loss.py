"""Several named losses in, one scalar out, and a record of what each weighed."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lossbalance._utils.checks import check_not_negative
from lossbalance._utils.transforms import is_exporting
from lossbalance.conflict.base import Aggregator
from lossbalance.criterion.breakdown import Breakdown, Step, tabulate
from lossbalance.criterion.factors import Factors
from lossbalance.criterion.loss_sum import LossSum, check_sum
from lossbalance.criterion.losses import LossReader
from lossbalance.criterion.state import NamedState
from lossbalance.gradients.branch import cosines
from lossbalance.gradients.places import GradientPlaces
from lossbalance.gradients.sources import Look, choose_source
from lossbalance.penalties.attachment import Attachment
from lossbalance.penalties.base import Penalty
from lossbalance.penalties.collection import Penalties
from lossbalance.penalties.report import PenaltyReport, report
from lossbalance.weighting.base import Losses, Weighting


class WeightedLoss(NamedState, GradientPlaces):
    """Combines the losses of a step into one scalar, by a weighting scheme, and adds penalties.

    Args:
        weighting: The scheme, made from the names of the terms.
        penalties: Regularizers on parameters by name; they need ``module`` in the call.
        weight_sum: If given, the weights are rescaled to add up to it, so that schemes compare at the same
            learning rate. Penalties are not rescaled.
        loss_sum: If given, the weights are rescaled so that the weighted losses, averaged over steps, add up to it: as
            the losses fall, the weights grow, a learning rate in disguise: give it to all schemes that are compared.
        conflict: What the gradients of the terms are combined by at the branch; None is the plain sum.

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
        conflict: Aggregator | None = None,
    ) -> None:
        if not isinstance(weighting, Weighting):
            raise TypeError(f"`weighting` must be a scheme such as Equal(['aux', 'main']), got {weighting!r}.")
        super().__init__(weighting.terms, conflict)
        self.weighting = weighting
        self.probes.magnitudes = weighting.uses_magnitudes
        self.penalties = Penalties(penalties, weighting.terms)
        self.weight_sum, self.loss_sum = check_sum("weight_sum", weight_sum), check_sum("loss_sum", loss_sum)
        if self.weight_sum is not None and self.loss_sum is not None:
            raise ValueError("`weight_sum` and `loss_sum` are two scales for the same weights: give one of them.")
        self.scale = None if self.loss_sum is None else LossSum(self.loss_sum, len(self.terms))
        self._reader = LossReader(weighting.terms)
        self._factors = Factors(weighting.terms)
        self._frozen = 0  # how many times over
        self._last: Step | None = None

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
        self.derive_values()
        given = self._reader.read(self._factors.detach(losses), self.probes.device)
        active = self._factors.mask(given)
        wrapper = self._find_wrapper(module)
        look = self._observe(active, shared, wrapper)
        row = active.row
        if self.training and self.probes.probed:
            row = self.probes.begin_step(row, None if look is None else look.commit_unless)
        total, weights = self._rescale(*self.weighting.weigh(self._factors.scale_gradient(row), active.present))
        total, weights = self._factors.scale_value(total, weights, row)
        penalties = self.penalties.in_total(total, module, warn=self._last is not None)
        total = sum(penalties.values(), start=total)
        if self.training:
            total = self._close_step(total, given, wrapper)
        norms = None if look is None or look.norms is None else weights * look.norms
        detached = {name: penalty.detach() for name, penalty in penalties.items()}
        if not is_exporting():
            self._last = Step(total.detach(), given.row.detach(), weights, given.present, detached, norms)
        return total

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Lets the scheme observe nothing: ``with criterion.frozen():`` weights stay as they are, to try a step out."""
        self._frozen += 1
        try:
            yield
        finally:
            self._frozen -= 1

    def parameter_groups(self, lr: float | None = None) -> list[dict[str, Any]]:
        """Returns what the optimizer must hold of a scheme that learns its weights; nothing for the others.

        ::

            groups = [{"params": net.parameters()}, *criterion.parameter_groups()]
            optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1)

        Weight decay is off in the group, for it would pull every weight to where the scheme's parameters are 0.

        Args:
            lr: The group's own learning rate; None for the scheme's, or else that of the optimizer.

        Raises:
            TypeError: If ``lr`` is not a number.
            ValueError: If it is negative, or not finite.
        """
        if lr is not None:
            check_not_negative("lr", lr)
        parameters = list(self.parameters())
        if not parameters:
            return []
        lr = self.weighting.learning_rate if lr is None else lr
        return [{"params": parameters, "weight_decay": 0.0} | ({} if lr is None else {"lr": lr})]

    def attach(self, optimizer: Optimizer, module: nn.Module) -> Attachment:
        """Lets each step of the optimizer apply the penalties in mode ``"gradient"`` or ``"decoupled"`` to ``module``.

        Where a step evaluates a closure several times, as that of L-BFGS does, only the first evaluation is observed by
        the scheme: a line search compares values under the same weights. Call it once, when the optimizer is made;
        there is nothing else to do, also with accumulated batches and gradient scalers; see
        :class:`~lossbalance.penalties.attachment.Attachment`.

        Raises:
            ValueError: If it was called for this optimizer before, or the optimizer holds none of the weights.
        """
        return Attachment(self.penalties.by_name.values(), optimizer, module, self.frozen)

    def report_penalties(self) -> dict[str, PenaltyReport]:
        """Returns what each penalty weighs, in value and in gradient; see :func:`lossbalance.penalties.report.report`.

        Call it after ``backward()`` and before the optimizer's step, in steps that are logged.
        """
        return report(self.penalties.by_name, torch.stack(list(self.last.contributions.values())))

    def synchronize(self) -> None:
        """Brings what the last backward pass measured together over ranks, ahead of the next step.

        Call it on every rank before one saves ``state_dict()``, after ``backward()``; callbacks do.
        """
        if self.weighting.uses_gradients:
            self.probes.pending.all_reduce(torch.zeros((), dtype=torch.bool, device=self.probes.device))

    @property
    def last(self) -> Breakdown:
        """What made up the last total.

        Raises:
            RuntimeError: Before the first call.
        """
        step = self.last_step()
        if step is None:
            raise RuntimeError("`last` describes the last call, and there was none: call the criterion first.")
        losses, weights, contributions, shares = map(self._by_name, tabulate([step])[0])
        return Breakdown(
            total=step.total,
            losses=losses,
            weights=weights,
            contributions=contributions,
            gradient_shares={} if step.norms is None else shares,
            cosines={} if step.products is None else cosines(step.products, self.terms),
            penalties_in_total=step.penalties,
            applied_by_optimizers={k: each for k, each in self.penalties.by_name.items() if k not in step.penalties},
        )

    def last_step(self) -> Step | None:
        """Returns the last call in the form that costs least, for statistics over many; None before the first."""
        last = self._last
        if last is None:
            return None
        if self.branches.has_closed:
            last = last._replace(products=self.branches.products())
        if last.norms is None and self.probes.probed:
            last = last._replace(norms=self.probes.norms())
        return last

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights of the last call, detached; before the first, those that losses of 1 would get."""
        if self._last is not None:
            return self._by_name(self._last.weights)
        ones = torch.ones(len(self.terms), device=self.probes.device)
        _, weights = self.weighting.weigh(ones, ones > 0)
        return self._by_name(weights.detach() * self._factors.row)

    def extra_repr(self) -> str:
        """The settings."""
        return "" if self.weight_sum is None else f"weight_sum={self.weight_sum:g}"

    def _observe(self, losses: Losses, shared: Tensor | Iterable[Tensor] | None, wrapper: Any) -> Look | None:
        """Shows the scheme the step, in training; returns what was found for it, or None."""
        if not self.training or self._frozen or not (self.weighting.observes or self.scale is not None):
            return None
        look = choose_source(self.weighting, self.probes, shared, wrapper).look(losses)
        if look is None:
            return None
        with torch.no_grad():
            self.weighting.observe(look.observation)
            if self.scale is not None:
                self.scale.observe(look.observation)
        return look

    def _rescale(self, total: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the total and the weights that the scheme gives, multiplied by what is to come on top of it."""
        if self.weight_sum is not None:
            factor = self.weight_sum / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
            total, weights = total * factor, weights * factor
        if self.scale is not None:
            factor = self.scale(self.weighting).to(weights.dtype)
            total, weights = total * factor, weights * factor
        return total, weights

    def _by_name(self, row: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.terms, row.unbind(), strict=True))
