"""Breakdown of a step: losses, weights, contributions and gradient shares by term."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from lossbalance._utils.terms import names_of, rows_of
from lossbalance.criterion.html import table
from lossbalance.gradients.measurement import Measurement
from lossbalance.gradients.products import cosines
from lossbalance.penalties.base import Penalty


@dataclass(frozen=True)
class Breakdown:
    """The parts of the total of one step: detached 0-d tensors, by name."""

    total: Tensor
    losses: dict[str, Tensor]
    """The plain losses; nan for a term that the step did not have."""
    weights: dict[str, Tensor]
    """d total / d loss; 0 for a term that the step did not have."""
    contributions: dict[str, Tensor]
    """Weight times loss."""
    gradient_shares: dict[str, Tensor]
    """Each term's part of the sum of the norms of the weighted gradients, at the probes or, under a gradient scheme, by
    ``shared``; nan before the backward pass and for a term without probe, empty if nothing is measured."""
    cosines: dict[tuple[str, str], Tensor]
    """Between the weighted gradients of two terms at the branch; nan before the backward pass and where a term has no
    gradient, empty without branch."""
    penalties_in_total: dict[str, Tensor]
    applied_by_optimizers: Mapping[str, Penalty] = field(default_factory=dict, repr=False)

    @cached_property
    def penalties(self) -> dict[str, Tensor]:
        """The values of all penalties; those that an optimizer applies are computed on access."""
        return self.penalties_in_total | {name: each.value() for name, each in self.applied_by_optimizers.items()}

    def _repr_html_(self) -> str:
        rows = {
            term: [float(row[term]) if row else None for row in (self.losses, self.weights, self.contributions, shares)]
            for shares in [self.gradient_shares]
            for term in self.losses
        }
        rows |= {name: [float(value), None, float(value), None] for name, value in self.penalties.items()}
        header = ["term", "loss", "weight", "contribution", "gradient_share"]
        return table(header, rows, caption=f"total {float(self.total):.4g}")


class Step(NamedTuple):
    """The detached tensors of one step, in rows; :func:`tabulate` and :func:`make_breakdown` read them."""

    total: Tensor
    losses: Tensor
    """``[terms]``; anything for a term that the step did not have."""
    weights: Tensor
    present: Tensor
    penalties: dict[str, Tensor]
    """Those that are in the total."""
    norms: Tensor | None = None
    """The norms of the weighted gradients, at the probes or by ``shared``, ``[terms]``, up to a factor; nan where they
    are not known, None if nothing is measured."""
    measurement: Measurement | None = None
    """What its backward pass measures; None in evaluation."""
    products: Tensor | None = None
    """The inner products of the weighted gradients at the branch, ``[terms, terms]``, up to a factor; nan before the
    backward pass, None without branch."""


def make_breakdown(step: Step, terms: Sequence[str], penalties: Mapping[str, Penalty]) -> Breakdown:
    """Returns the parts of a step by name.

    Args:
        step: The step.
        terms: Names of the losses, in the order of the row.
        penalties: All penalties by name.
    """
    losses, weights, contributions, shares = (by_name(terms, row) for row in tabulate([step])[0])
    return Breakdown(
        total=step.total,
        losses=losses,
        weights=weights,
        contributions=contributions,
        gradient_shares={} if step.norms is None else shares,
        cosines={} if step.products is None else cosines(step.products, terms),
        penalties_in_total=step.penalties,
        applied_by_optimizers={name: each for name, each in penalties.items() if name not in step.penalties},
    )


def by_name(terms: Sequence[str], row: Tensor) -> dict[str, Tensor]:
    """Returns the entries of a row ``[terms]`` by name; the columns of a row of terms are one tensor."""
    rows = rows_of(terms)
    if not rows:
        return dict(zip(terms, row.unbind(), strict=True))
    names = names_of(terms)
    parts = row.split([len(rows.get(name, (name,))) for name in names])
    return {name: part if name in rows else part[0] for name, part in zip(names, parts, strict=True)}


def tabulate(steps: Sequence[Step]) -> Tensor:
    """Returns losses, weights, contributions and gradient shares as in :class:`Breakdown`, ``[steps, 4, terms]``."""
    losses, weights, present = (
        torch.stack(column)
        for column in zip(*((step.losses, step.weights, step.present) for step in steps), strict=True)
    )
    unknown = torch.full_like(losses[0], torch.nan)
    norms = torch.stack([unknown if step.norms is None else step.norms.to(losses.dtype) for step in steps])
    shares = norms / norms.nansum(dim=1, keepdim=True)
    return torch.stack([losses.where(present, torch.nan), weights, weights * losses, shares], dim=1)
