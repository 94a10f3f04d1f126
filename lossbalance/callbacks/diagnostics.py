"""What a training can suffer from without a sign, and what to do about it."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch.optim import Optimizer

from lossbalance.callbacks.balance_losses import BalanceLosses
from lossbalance.callbacks.statistics import TermStatistics
from lossbalance.weighted_loss import WeightedLoss

_NEARLY_ALL = 0.95  # of the gradient
_COLLAPSED = 1e-3  # of the weight that the term had in the first epoch
_UNMOVED = 1e-6  # relative change of the loss from the first epoch to the second


@dataclass(frozen=True)
class Epochs:
    """What is known of the terms after an epoch."""

    terms: Sequence[str]
    probed: Collection[str]
    """The terms that have met a probe, or were meant to."""
    history: Sequence[Mapping[str, float]]
    """The means of each epoch so far, as :class:`LossMonitor` keeps them."""

    @classmethod
    def of(
        cls, statistics: TermStatistics, balancer: BalanceLosses | None, history: Sequence[Mapping[str, float]]
    ) -> "Epochs":
        """Returns what is known of the terms of one criterion."""
        probes, prefix = statistics.criterion.probes, statistics.prefix
        probed = {*probes.placed, *probes.probed, *(balancer.probes if balancer else ())}
        terms = [f"{prefix}{term}" for term in statistics.criterion.terms]
        return cls(terms, {f"{prefix}{term}" for term in probed}, history)

    def mean(self, quantity: str, term: str, epoch: int = -1) -> float:
        """Returns a mean of an epoch; nan for what was not measured."""
        return self.history[epoch].get(f"{quantity}/{term}", math.nan)

    def weighs(self, term: str) -> bool:
        """Whether the term has a weight; 0 is a choice, and no trouble."""
        weight = self.mean("weight", term)
        return math.isfinite(weight) and weight != 0

    def unseen(self, term: str) -> bool:
        """Whether the gradient of a term that weighs something has met none of its probes."""
        return term in self.probed and self.weighs(term) and not self.mean("gradient_share", term) > 0


def diagnose_terms(epochs: Epochs) -> Iterator[tuple[str, str]]:
    """Yields a key for each trouble that shows in the last epoch, and what to say."""
    for term in epochs.terms:
        for look in (_not_finite, _unseen, _dominant, _collapsed, _unmoved):
            message = look(epochs, term)
            if message is not None:
                yield f"{look.__name__} {term}", message


def diagnose_parameters(criterion: WeightedLoss, optimizers: Sequence[Optimizer]) -> Iterator[tuple[str, str]]:
    """Yields what keeps the parameters of the scheme from being trained as they should."""
    groups = {id(p): group for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    whose, cure = f"The weights of {list(criterion.terms)}", "put `*criterion.parameter_groups()` there, and only there"
    for name, parameter in criterion.weighting.named_parameters():
        full_name = f"`{type(criterion.weighting).__name__}.{name}`"
        group = groups.get(id(parameter))
        if parameter.requires_grad and group is None:
            yield name, f"{whose} will never move, for {full_name} is in no parameter group of the optimizer: {cure}."
        elif group is not None and group.get("weight_decay"):
            decay = group["weight_decay"]
            yield name, f"{whose} are biased, for {full_name} is under a weight decay of {decay:g}: {cure}."


def _not_finite(epochs: Epochs, term: str) -> str | None:
    part = epochs.mean("not_finite", term)
    if not part > 0:
        return None
    return (
        f"The loss of {term!r} was not finite in {part:.2%} of an epoch, which the means leave out: look for a "
        "division by 0, a logarithm of 0, or a learning rate that is too high."
    )


def _unseen(epochs: Epochs, term: str) -> str | None:
    if not epochs.unseen(term):
        return None
    return (
        f"The probe of {term!r} never fired in a whole epoch, so its share of the gradient is not known: use what "
        f"`criterion.probe({term!r}, h)` returns for the term's own branch, or probe the module in which that begins."
    )


def _dominant(epochs: Epochs, term: str) -> str | None:
    alone = not any(epochs.weighs(other) for other in epochs.terms if other != term)
    share = epochs.mean("gradient_share", term)
    if alone or not share > _NEARLY_ALL or any(map(epochs.unseen, epochs.terms)):
        return None
    return (
        f"{term!r} takes {share:.1%} of the gradient and drowns the other terms: balance them by GradBalance or "
        f"GradNorm, or lower the weight of {term!r}."
    )


def _collapsed(epochs: Epochs, term: str) -> str | None:
    first, last = epochs.mean("weight", term, 0), epochs.mean("weight", term)
    if not (epochs.weighs(term) and abs(last) < _COLLAPSED * abs(first)):
        return None
    return (
        f"The weight of {term!r} has collapsed from {first:.3g} to {last:.3g}, which hardly trains the term any more: "
        "hold it by Fixed, or by GradBalance and its ratios."
    )


def _unmoved(epochs: Epochs, term: str) -> str | None:
    if len(epochs.history) != 2 or not epochs.weighs(term):
        return None
    first, second = (epochs.mean("loss", term, epoch) for epoch in (0, 1))
    if not abs(second - first) <= _UNMOVED * abs(first):
        return None
    return (
        f"The loss of {term!r} never moved: it is {second:.6g} in the second epoch as in the first. Is it detached "
        "from the network, or are the parameters that it depends on frozen or missing from the optimizer?"
    )
