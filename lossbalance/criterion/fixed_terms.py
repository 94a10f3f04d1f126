"""Terms of known weight beside a scheme: priors, KL terms, losses whose weight means something."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lossbalance._utils.checks import check_not_negative
from lossbalance._utils.deferred import DeferredModule
from lossbalance._utils.precision import keep_precision
from lossbalance.weighting.base import Losses, Observation, weighted_sum


class FixedTerms(DeferredModule):
    """Adds terms of known weight to the total of a scheme, which does not see them.

    Args:
        scheme_terms: Names of the scheme's losses; in a row, those of known weight follow them.
        weights: The weights by name, finite and not negative.

    Raises:
        TypeError: If ``weights`` is not a mapping, or a weight not a number.
        ValueError: If a weight is negative or not finite, or a name is one of the scheme's.
    """

    weight: Tensor
    _scheme: Tensor

    def __init__(self, scheme_terms: tuple[str, ...], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = _check_fixed(scheme_terms, weights)
        self.terms = tuple(self.weights)
        self.count = len(scheme_terms)
        self.register_buffer("weight", torch.tensor(list(self.weights.values())), persistent=False)
        of_scheme = torch.arange(self.count + len(self.terms)) < self.count
        self.register_buffer("_scheme", of_scheme, persistent=False)

    def hide(self, losses: Losses) -> Losses:
        """Returns the losses as the scheme observes them: those of known weight are absent, and must be finite."""
        given = {term: None if term in self.weights else loss for term, loss in losses.given.items()}
        return Losses(given, losses.row, losses.present & self._scheme, losses.rows)

    def crop(self, observation: Observation) -> Observation:
        """Returns the part of an observation that belongs to the scheme."""
        return Observation(*(None if row is None else row[: self.count] for row in observation))  # type: ignore[arg-type]

    def add(self, total: Tensor, weights: Tensor, row: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Returns total and weights of the scheme with the terms of known weight.

        Args:
            total: The scheme's total ``[]``.
            weights: Its weights ``[scheme's terms]``.
            row: The losses ``[terms]``.
            present: Whether the step has the term, ``[terms]``.
        """
        added, own = weighted_sum(row[self.count :], self.weight, present[self.count :])
        return total + added, torch.cat([weights, own])

    def without_norms(self, norms: Tensor) -> Tensor:
        """Returns norms ``[terms]`` that were measured for the scheme; nan for the terms of known weight."""
        return norms.where(self._scheme, torch.nan)

    def extra_repr(self) -> str:
        """The weights."""
        return ", ".join(f"{term}={weight:g}" for term, weight in self.weights.items())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        return super()._apply(keep_precision(fn), recurse)


def _check_fixed(scheme_terms: tuple[str, ...], weights: object) -> dict[str, float]:
    if not isinstance(weights, Mapping):
        raise TypeError(f"`fixed` must map terms to their weights, such as {{'kl': 0.25}}, got {weights!r}.")
    twice = [term for term in weights if term in scheme_terms]
    if twice:
        raise ValueError(
            f"`fixed` must name terms beside those of the scheme, {list(scheme_terms)}, got {twice}: leave them out of "
            "the scheme's terms."
        )
    nameless = [term for term in weights if not isinstance(term, str) or not term]
    if nameless:
        raise TypeError(f"`fixed` must map names of terms to their weights, got {nameless}.")
    cure = "to maximize a term, negate its loss"
    return {term: check_not_negative(f"fixed[{term!r}]", weights[term], cure) for term in weights}
