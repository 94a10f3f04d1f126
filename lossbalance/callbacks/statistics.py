"""Statistics of the terms of a criterion: means over steps."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from lossbalance.callbacks.keys import OF_PAIRS, OF_TERMS, key, names_of
from lossbalance.callbacks.many_terms import MANY, Pairs, quantiles
from lossbalance.callbacks.running_means import RunningMeans
from lossbalance.criterion.breakdown import Step, tabulate
from lossbalance.criterion.weighted_loss import WeightedLoss
from lossbalance.gradients.products import pair_cosines
from lossbalance.penalties.sparsity import count_zeros

T = TypeVar("T")
_IN_CONFLICT = -0.1  # two gradients whose cosine is below are in conflict
_AT_ONCE = 50  # steps that are counted together, for one by one they cost as much as small networks do


class CallReader:
    """Returns each call of a criterion once.

    Args:
        criterion: The criterion.
    """

    def __init__(self, criterion: WeightedLoss) -> None:
        self.criterion = criterion
        self._seen: Tensor | None = None  # the total of the last call that was returned

    def take(self) -> Step | None:
        """Returns the last call; None if it was returned before."""
        step = self.criterion.last_step()
        if step is None or step.total is self._seen:
            return None
        self._seen = step.total
        return step


class TermStatistics:
    """Computes the means of what the terms and penalties of a criterion did, in this epoch and since the last log.

    Args:
        criterion: Weighs the terms.
        device: The device of the losses.
        prefix: Stands before the names of the terms and penalties.
    """

    def __init__(self, criterion: WeightedLoss, device: torch.device, prefix: str = "") -> None:
        self.criterion, self.prefix = criterion, prefix
        penalties = criterion.penalties.by_name
        self.in_total = [name for name, penalty in penalties.items() if penalty.mode == "loss"]
        self.applied = [name for name, penalty in penalties.items() if penalty.mode != "loss"]
        self.names = [key(quantity, prefix + term) for quantity in OF_TERMS for term in criterion.terms]
        self.names += [key("penalty", prefix + name) for name in self.in_total]
        self.pairs = Pairs(criterion.terms, prefix)
        self._size = len(self.names) + len(OF_PAIRS) * self.pairs.count
        self.names += [key(quantity, pair) for quantity in OF_PAIRS for pair in self.pairs.by_name]
        self.means = {
            "epoch": RunningMeans(self._size).to(device),
            "log": RunningMeans(self._size).to(device),
            "penalty_shares": RunningMeans(len(penalties)).to(device),
        }
        self._calls = CallReader(criterion)
        self._uncounted: list[tuple[Step, int]] = []  # steps, and the sizes of their batches

    def update(self, batch_size: int) -> None:
        """Adds the criterion's last call, without waiting for the device."""
        step = self._calls.take()
        if step is not None:
            self._uncounted.append((step, batch_size))
        if len(self._uncounted) >= _AT_ONCE:
            self._count()

    def measure_penalties(self) -> None:
        """Adds the penalties' shares of the gradient; call it before the optimizer steps."""
        if self.criterion.penalties and self.criterion.last_step() is not None:
            reports = self.criterion.report_penalties().values()
            shares = torch.stack([report.gradient_share for report in reports])
            self.means["penalty_shares"].update(shares.unsqueeze(0), torch.ones_like(shares[:1]))

    def close_log(self) -> dict[str, float]:
        """Returns the means since the last log, by name, and resets them."""
        self._count()
        means = self._read("log")
        if self._is_many:
            means = quantiles(means)
        self.means["epoch"].absorb(self.means["log"])
        self.means["log"].reset()
        return means

    def close_epoch(self) -> dict[str, float]:
        """Returns the means of the epoch, by name, and resets them."""
        self._count()
        self.means["epoch"].absorb(self.means["log"])
        names = [key("gradient_share", self.prefix + name) for name in self.criterion.penalties]
        means = self._read("epoch") | finite_means(names, self.means["penalty_shares"])
        if self._is_many:
            means |= quantiles(means)
        for each in self.means.values():
            each.reset()
        return means

    def tabulate(self, means: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """Returns the means that :meth:`close_epoch` has returned as a row for each term and penalty."""
        terms = [f"{self.prefix}{term}" for term in self.criterion.terms]
        strengths = {f"{self.prefix}{name}": strength for name, strength in _strengths(self.criterion).items()}
        rows = _tabulate(means, terms, strengths)
        for name, penalty in self.criterion.penalties.by_name.items():
            zeros = means.get(key("zeros", self.prefix + name), math.nan)
            rows[self.prefix + name] |= {"zeros": zeros, "size": count_zeros(penalty).size.item()}
        return rows

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        self._count()
        return {"names": self.names} | {span: means.state_dict() for span, means in self.means.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the sums, if they are of the same names in any order."""
        if set(state["names"]) != set(self.names) or (self._is_many and state["names"] != self.names):
            return
        for span, means in self.means.items():
            means.load_state_dict(state[span])
        if self._is_many:  # the pairs have no names, and no other order
            return
        order = [state["names"].index(name) for name in self.names]
        for span in ("epoch", "log"):
            self.means[span].select(order)

    def _count(self) -> None:
        if not self._uncounted:
            return
        steps, sizes = zip(*self._uncounted, strict=True)
        losses, weights, contributions, shares = tabulate(steps).unbind(dim=1)
        weights = weights.where(losses.isfinite(), math.nan)  # the weight of an absent term has no meaning
        penalties = [torch.stack([step.penalties[name] for step in steps]).unsqueeze(1) for name in self.in_total]
        cosines = _cosines(steps)
        conflicts = torch.where(cosines.isnan(), cosines, (cosines < _IN_CONFLICT).to(cosines))
        of_terms = [losses, weights, contributions, shares, 0.0 + ~contributions.isfinite()]
        self.means["log"].update(torch.cat([*of_terms, *penalties, cosines, conflicts], dim=1), torch.tensor(sizes))
        self._uncounted.clear()

    def _read(self, span: str) -> dict[str, float]:
        means = self._means(span)
        for name in self.applied if means else ():  # the optimizer applies them
            means[key("penalty", self.prefix + name)] = self.criterion.last.penalties[name].item()
        for name, penalty in self.criterion.penalties.by_name.items() if means else ():
            means[key("zeros", self.prefix + name)] = count_zeros(penalty).zeros.item()
        for term, distance in getattr(self.criterion.weighting, "distances", {}).items() if means else ():
            means[key("distance", self.prefix + term)] = distance.item()  # from its limit
        never = {key("not_finite", name) for name in names_of("not_finite", means)}  # logged only where it happens
        return {name: mean for name, mean in means.items() if mean or name not in never}

    def _means(self, span: str) -> dict[str, float]:
        if not self._is_many:
            return finite_means(self.names, self.means[span])
        values = self.means[span].compute()
        found = dict(zip(self.names, values[: len(self.names)].tolist(), strict=True))
        found |= self.pairs.read(values[len(self.names) :].cpu()) if span == "epoch" else {}
        return {name: mean for name, mean in found.items() if math.isfinite(mean)}

    @property
    def _is_many(self) -> bool:
        return len(self.criterion.terms) > MANY


def finite_means(names: Iterable[str], means: RunningMeans) -> dict[str, float]:
    """Returns the finite means by name; waits for the device."""
    values = means.compute().view(-1).tolist()  # torchmetrics makes a number of a single one
    return {name: mean for name, mean in zip(names, values, strict=True) if math.isfinite(mean)}


def merge(parts: Iterable[Mapping[str, T]]) -> dict[str, T]:
    """Merges the values of several criteria."""
    return {name: value for part in parts for name, value in part.items()}


def _cosines(steps: Sequence[Step]) -> Tensor:
    """Returns the cosine of each pair of terms in each step, ``[steps, pairs]``; nan where there is none."""
    size, device = len(steps[0].losses), steps[0].losses.device
    unknown = torch.full((size, size), torch.nan, device=device)
    return pair_cosines(torch.stack([unknown if step.products is None else step.products for step in steps]))


def _strengths(criterion: WeightedLoss) -> dict[str, float]:
    """Returns the strength of each penalty; 1 where it has several."""
    strengths = {name: penalty.effective_strength for name, penalty in criterion.penalties.by_name.items()}
    return {name: 1.0 if isinstance(strength, Mapping) else float(strength) for name, strength in strengths.items()}


def _tabulate(
    means: Mapping[str, float], terms: Iterable[str], strengths: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    names = [*terms, *strengths]
    rows = {name: {quantity: means.get(key(quantity, name), math.nan) for quantity in OF_TERMS[:4]} for name in names}
    for name, strength in strengths.items():
        value = means.get(key("penalty", name), math.nan)
        rows[name] |= {"loss": value / strength if strength else math.nan, "weight": strength, "contribution": value}
    magnitude = sum(abs(row["contribution"]) for row in rows.values())
    for row in rows.values():
        row["value_share"] = abs(row["contribution"]) / magnitude if magnitude else math.nan
    return rows
