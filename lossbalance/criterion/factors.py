"""Factors on the weights of terms, on top of any scheme."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from lossbalance._utils.checks import check_not_negative
from lossbalance._utils.deferred import DeferredModule
from lossbalance._utils.distributed import world_size
from lossbalance._utils.precision import keep_precision
from lossbalance.weighting.base import Losses


class Factors(DeferredModule):
    """Multiplies the weight that a scheme gives each term by a number that the user gives.

    What the scheme learns does not depend on the factors: it sees the losses as they are. A term with a factor of 0 is
    to the scheme as one that is absent. Its branch has no backward pass, unless several processes train together:
    there, DistributedDataParallel waits for the gradient of every parameter.

    Args:
        terms: Names of the losses, in the order of the row.
    """

    row: Tensor

    def __init__(self, terms: tuple[str, ...]) -> None:
        super().__init__()
        self.terms = terms
        self.by_name: dict[str, float] = {}
        """The factors of terms; of those that are not here, 1."""
        self.register_buffer("row", torch.ones(len(terms)), persistent=False)

    def set_factor(self, term: str, factor: float) -> None:
        """Sets a factor, in place on the device."""
        self.by_name.pop(term, None)
        if factor != 1:
            self.by_name[term] = factor
        self.row[self.terms.index(term)].fill_(factor)

    def detach(self, losses: Any) -> Any:
        """Returns the losses, those with a factor of 0 cut off their branches."""
        zeros = self._zeros()
        if not zeros or world_size() > 1 or not isinstance(losses, Mapping):
            return losses
        return {
            term: loss.detach() if term in zeros and isinstance(loss, Tensor) else loss for term, loss in losses.items()
        }

    def mask(self, losses: Losses) -> Losses:
        """Returns the losses without those with a factor of 0."""
        zeros = self._zeros()
        if not zeros:
            return losses
        given = {term: None if term in zeros else loss for term, loss in losses.given.items()}
        present = losses.present & (self.row != 0)
        row = torch.where(present, losses.row, 0.0)
        has_graph = row.requires_grad or any(map(_is_there, given.values()))
        return Losses(given, row if has_graph else _leaf(row), present, losses.rows)

    def scale_gradient(self, row: Tensor) -> Tensor:
        """Returns the losses, whose gradients arrive multiplied."""
        if not self.by_name:
            return row
        values = row.detach()
        return values + self.row * (row - values)

    def scale_value(self, total: Tensor, weights: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the total and the weights that the factors make of those of a scheme."""
        if not self.by_name:
            return total, weights
        multiplied = weights * self.row
        return total + (multiplied - weights).dot(row.detach()), multiplied

    def _fill(self, names: Iterable[str]) -> None:
        super()._fill(names)
        for term, factor in self.by_name.items():
            self.row[self.terms.index(term)].fill_(factor)

    def extra_repr(self) -> str:
        """The factors."""
        return ", ".join(f"{term}={factor:g}" for term, factor in self.by_name.items())

    def _zeros(self) -> set[str]:
        return {term for term, factor in self.by_name.items() if factor == 0}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Factors":
        return super()._apply(keep_precision(fn), recurse)


def check_factor(name: str, factor: object) -> float:
    """Returns the factor of a term or penalty as a float.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is negative, or not finite.
    """
    return check_not_negative("factor", factor, f"it multiplies the weight of {name!r}")


def _is_there(loss: Tensor | None) -> bool:
    return loss is not None


def _leaf(row: Tensor) -> Tensor:
    """Returns the row as one that can be differentiated, so that ``backward()`` works where no term is left."""
    return row.detach().clone().requires_grad_(torch.is_grad_enabled())
