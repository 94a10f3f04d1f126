"""What is known of the terms of a criterion, epoch by epoch."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from lossbalance.callbacks.balance_losses import BalanceLosses
from lossbalance.callbacks.statistics import TermStatistics


@dataclass(frozen=True)
class Epochs:
    """What is known of the terms of a criterion after an epoch."""

    terms: Sequence[str]
    penalties: Sequence[str]
    probed: Collection[str]
    """The terms that have met a probe, or were meant to."""
    pairs: Mapping[str, tuple[str, str]]
    """Two terms each, by what their cosine is called; none where an aggregator settles their conflicts."""
    history: Sequence[Mapping[str, float]]
    """The means of each epoch so far, as :class:`LossMonitor` keeps them."""
    validation: Sequence[Mapping[str, float]]
    """The plain losses of the validation in each epoch, by the names of the terms."""

    @classmethod
    def of(
        cls,
        statistics: TermStatistics,
        balancer: BalanceLosses | None,
        history: Sequence[Mapping[str, float]],
        validation: Sequence[Mapping[str, float]],
    ) -> "Epochs":
        """Returns what is known of one criterion."""
        criterion, prefix = statistics.criterion, statistics.prefix
        pairs = {f"{prefix}{a}/{b}": (a, b) for a, b in combinations(criterion.terms, 2)}
        probed = {*criterion.probes.placed, *criterion.probes.probed, *(balancer.probes if balancer else ())}
        return cls(
            terms=[f"{prefix}{term}" for term in criterion.terms],
            penalties=[f"{prefix}{name}" for name in criterion.penalties],
            probed={f"{prefix}{term}" for term in probed},
            pairs={} if criterion.conflict else pairs,
            history=history,
            validation=validation,
        )

    @property
    def last(self) -> int:
        """The place of the last epoch."""
        return len(self.history) - 1

    def mean(self, quantity: str, name: str, epoch: int = -1) -> float:
        """Returns a mean of an epoch; nan for what was not measured."""
        return self.history[epoch].get(f"{quantity}/{name}", math.nan)

    def validated(self, term: str, epoch: int) -> float:
        """Returns the loss of a term in the validation of an epoch; nan where there was none."""
        return self.validation[epoch].get(term, math.nan) if epoch < len(self.validation) else math.nan

    def weighs(self, term: str, epoch: int = -1) -> bool:
        """Whether the term has a weight; 0 is a choice, and no fault."""
        weight = self.mean("weight", term, epoch)
        return math.isfinite(weight) and weight != 0

    def unseen(self, term: str, epoch: int = -1) -> bool:
        """Whether the gradient of a term that weighs something has met none of its probes."""
        share = self.mean("gradient_share", term, epoch)
        return term in self.probed and self.weighs(term, epoch) and not share > 0

    def compares(self, epoch: int) -> bool:
        """Whether the gradient shares of an epoch tell something: of several terms, and all that weigh were seen."""
        weighing = [term for term in self.terms if self.weighs(term, epoch)]
        return len(weighing) > 1 and not any(self.unseen(term, epoch) for term in weighing)

    def since(self, holds: Callable[[int], bool], patience: int = 2) -> int | None:
        """Returns the number of the epoch since which ``holds`` is true of every epoch.

        Args:
            holds: Whether something is true of the epoch at a place.
            patience: How many epochs it must have been.
        """
        count = 0
        while count < len(self.history) and holds(self.last - count):
            count += 1
        return None if count < patience else int(self.history[-count]["epoch"])
