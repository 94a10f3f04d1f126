"""Summaries of many terms: quantiles, and the pairs with the lowest cosines, in place of every value."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from lossbalance.callbacks.keys import OF_PAIRS, OF_TERMS, key, names_of, pair_name

MANY = 20  # terms, above which not every value is logged, printed and drawn
MOST = 10  # of the largest, of the smallest, and of the pairs that are shown
_QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)


class Pairs:
    """The pairs of terms that are logged: all of few terms; of many, those that have been among the ten worst.

    Args:
        terms: Names of the losses, in the order of the row.
        prefix: Stands before the names of the pairs.
    """

    def __init__(self, terms: Sequence[str], prefix: str) -> None:
        self.terms, self.prefix = terms, prefix
        self.count = len(terms) * (len(terms) - 1) // 2
        self.logged: dict[int, tuple[str, str]] = {}
        """The terms of each pair, by its index in the order of ``itertools.combinations``."""
        if len(terms) <= MANY:
            self.logged = dict(enumerate(combinations(terms, 2)))

    def read(self, means: Tensor) -> dict[str, float]:
        """Returns the cosines and conflicts of the logged pairs by key, from their means ``[2 * pairs]``."""
        self._choose(means[: self.count])
        found = means.view(len(OF_PAIRS), -1)[:, list(self.logged)].tolist()
        return {
            key(quantity, name): value
            for quantity, values in zip(OF_PAIRS, found, strict=True)
            for name, value in zip(self.by_name, values, strict=True)
        }

    @property
    def by_name(self) -> dict[str, tuple[str, str]]:
        """The logged pairs by the name of their cosine."""
        return {pair_name(*pair, self.prefix): pair for pair in self.logged.values()}

    def _choose(self, cosines: Tensor) -> None:
        """Adds the pairs with the lowest cosines, until half as many are logged as there are terms."""
        if len(self.terms) <= MANY or cosines.isnan().all():
            return
        first, second = torch.triu_indices(len(self.terms), len(self.terms), 1)
        for index in cosines.nan_to_num(torch.inf).topk(MOST, largest=False).indices.tolist():
            if index not in self.logged and len(self.logged) < len(self.terms) // 2:
                self.logged[index] = self.terms[first[index]], self.terms[second[index]]


def quantiles(means: Mapping[str, float]) -> dict[str, float]:
    """Returns the quantiles over terms of each quantity, ``quantile/loss/0.5``."""
    found: dict[str, float] = {}
    for quantity in OF_TERMS[:4]:
        values = torch.tensor([means[key(quantity, name)] for name in names_of(quantity, means)])
        if len(values):
            at = torch.tensor(_QUANTILES)
            found |= {
                key("quantile", f"{quantity}/{q:g}"): value
                for q, value in zip(_QUANTILES, values.quantile(at).tolist(), strict=True)
            }
    return found


def extremes(values: Mapping[str, float]) -> Iterator[str]:
    """Yields all names of few; of many those with the ten largest and the ten smallest values, in their order."""
    ranked = sorted(values, key=lambda name: values[name] if values[name] == values[name] else 0.0)
    kept = set(ranked if len(ranked) <= MANY else [*ranked[:MOST], *ranked[-MOST:]])
    yield from (name for name in values if name in kept)
