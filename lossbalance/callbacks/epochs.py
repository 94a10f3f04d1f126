"""Record of the terms of a criterion, epoch by epoch, for diagnostics."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lossbalance.callbacks.keys import key
from lossbalance.callbacks.statistics import TermStatistics


@dataclass(frozen=True)
class Epochs:
    """The means of each epoch so far, with the names of terms, penalties and pairs of a criterion."""

    terms: Sequence[str]
    penalties: Sequence[str]
    probed: Collection[str]
    """The terms that have met a probe, or were meant to."""
    pairs: Mapping[str, tuple[str, str]]
    """Pairs of terms by the name of their cosine; none where an aggregator handles their conflicts."""
    history: Sequence[Mapping[str, float]]
    """The means of each epoch so far, as :class:`LossMonitor` keeps them."""
    validation: Sequence[Mapping[str, float]]
    """The plain losses of the validation in each epoch, by the names of the terms."""
    detached: Collection[str] = ()
    """The terms whose loss had no gradient beside others that had one."""
    _compared: dict[int, bool] = field(default_factory=dict, compare=False, repr=False)  # by epoch
    _largest: dict[int, float] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        statistics: TermStatistics,
        probed: Iterable[str],
        history: Sequence[Mapping[str, float]],
        validation: Sequence[Mapping[str, float]],
    ) -> "Epochs":
        """Returns the record of one criterion.

        Args:
            statistics: Those of the criterion.
            probed: The terms that are meant to meet a probe, besides those that have met one.
            history: The means of each epoch so far.
            validation: The plain losses of the validation in each epoch.
        """
        criterion, prefix = statistics.criterion, statistics.prefix
        all_probed = {*criterion.probes.placed, *criterion.probes.probed, *probed}
        return cls(
            terms=[f"{prefix}{term}" for term in criterion.terms],
            penalties=[f"{prefix}{name}" for name in criterion.penalties],
            probed={f"{prefix}{term}" for term in all_probed},
            pairs={} if criterion.conflict else statistics.pairs.by_name,
            history=history,
            validation=validation,
            detached={f"{prefix}{term}" for term in criterion.step_warnings.detached},
        )

    @property
    def last(self) -> int:
        """The index of the last epoch."""
        return len(self.history) - 1

    def mean(self, quantity: str, name: str, epoch: int = -1) -> float:
        """Returns a mean of an epoch; nan for what was not measured."""
        return self.history[epoch].get(key(quantity, name), math.nan)

    def validated(self, term: str, epoch: int) -> float:
        """Returns the loss of a term in the validation of an epoch; nan where there was none."""
        return self.validation[epoch].get(term, math.nan) if epoch < len(self.validation) else math.nan

    def weighs(self, term: str, epoch: int = -1) -> bool:
        """Whether the term has a weight; 0 is a choice of the user, not a fault."""
        weight = self.mean("weight", term, epoch)
        return math.isfinite(weight) and weight != 0

    def unseen(self, term: str, epoch: int = -1) -> bool:
        """Whether no probe has measured the gradient of a term whose weight is not 0."""
        share = self.mean("gradient_share", term, epoch)
        return term in self.probed and self.weighs(term, epoch) and not share > 0

    def compares(self, epoch: int) -> bool:
        """Whether gradient shares of an epoch compare: several terms have a weight, and all of them were measured."""
        if epoch not in self._compared:
            weighing = [term for term in self.terms if self.weighs(term, epoch)]
            self._compared[epoch] = len(weighing) > 1 and not any(self.unseen(term, epoch) for term in weighing)
        return self._compared[epoch]

    def largest_share(self, epoch: int) -> float:
        """Returns the largest gradient share of an epoch; nan where shares do not compare."""
        if epoch not in self._largest:
            shares = [self.mean("gradient_share", term, epoch) for term in self.terms]
            known = [share for share in shares if math.isfinite(share)] if self.compares(epoch) else []
            self._largest[epoch] = max(known, default=math.nan)
        return self._largest[epoch]

    def since(self, holds: Callable[[int], bool], patience: int = 2) -> int | None:
        """Returns the number of the epoch since which ``holds`` is true of every epoch.

        Args:
            holds: Whether the fault shows in the epoch at an index.
            patience: The least number of epochs in a row.
        """
        count = 0
        while count < len(self.history) and holds(self.last - count):
            count += 1
        return None if count < patience else int(self.history[-count]["epoch"])
