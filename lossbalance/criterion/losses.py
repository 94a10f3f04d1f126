"""Reader of losses: from a mapping by name to a row of terms."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lossbalance._utils.checks import check_names
from lossbalance._utils.terms import names_of, rows_of
from lossbalance.weighting.base import Losses


class LossReader:
    """Brings the losses of a step in order, once they are sound.

    Args:
        terms: Names of the losses, in the order of the row.
    """

    def __init__(self, terms: tuple[str, ...]) -> None:
        self.terms, self.names, self.rows = terms, names_of(terms), rows_of(terms)
        self._complete = torch.ones(len(terms), dtype=torch.bool)  # what is present where nothing is missing

    def read(self, losses: Mapping[str, Tensor | None], device: torch.device) -> Losses:
        """Returns the losses, as tensors on ``device``, in fp32 or wider.

        Raises:
            TypeError: If ``losses`` is not a mapping, or a loss not a tensor in floating point.
            ValueError: If a term is missing or unknown, or a loss not a scalar, or on another device.
        """
        given = {term: _whole(losses[term]) for term in self._check(losses)}
        here = {
            name: _check_loss(name, loss, device, len(self.rows[name]) if name in self.rows else None)
            for name, loss in given.items()
            if loss is not None
        }
        dtypes = {loss.dtype for loss in here.values()}
        dtype = torch.float64 if torch.float64 in dtypes else torch.float32
        if dtypes != {dtype}:
            here = {term: loss.to(dtype) for term, loss in here.items()}
        if len(here) == len(self.names):
            if self._complete.device != device:
                self._complete = torch.ones(len(self.terms), dtype=torch.bool, device=device)
            return Losses(given, _join([*here.values()], self.rows), self._complete, self.rows)
        absent = torch.zeros((), dtype=dtype, device=device, requires_grad=not here)
        sizes = {name: len(self.rows.get(name, (name,))) for name in self.names}
        row = _join([here.get(n, absent.expand(sizes[n]) if n in self.rows else absent) for n in self.names], self.rows)
        present = torch.tensor([name in here for name in self.names for _ in range(sizes[name])])
        return Losses(given, row, present.to(device, non_blocking=True), self.rows)  # without waiting for the device

    def _check(self, losses: object) -> tuple[str, ...]:
        if not isinstance(losses, Mapping):
            example = ", ".join(f'"{term}": {term}_loss' for term in self.names)
            raise TypeError(f"`losses` must map each term to its loss, got {_kind(losses)}: write {{{example}}}.")
        if losses.keys() != set(self.names):
            check_names("losses", losses, self.names)
        return self.names


def _whole(loss: Tensor | None) -> Tensor | None:
    """Returns a loss that is a DTensor as an ordinary tensor, summed over the ranks that each have a part of it."""
    return getattr(loss, "full_tensor", lambda: loss)()


def _join(losses: list[Tensor], rows: Mapping[str, Any]) -> Tensor:
    """Returns the losses as one row."""
    return torch.cat([loss.view(-1) for loss in losses]) if rows else torch.stack(losses)


def _check_loss(term: str, loss: object, device: torch.device, columns: int | None) -> Tensor:
    if not isinstance(loss, Tensor) or not loss.is_floating_point():
        kind = str(loss.dtype) if isinstance(loss, Tensor) else _kind(loss)
        raise TypeError(
            f"`losses[{term!r}]` must be a scalar tensor in floating point, got {kind}: pass None for an absent term."
        )
    if columns is not None and loss.shape != (columns,):
        raise ValueError(
            f"`losses[{term!r}]` must be a row of the losses of its {columns} columns, got shape {list(loss.shape)}: "
            "reduce over all other dimensions, such as by `.mean(dim=0)`."
        )
    if columns is None and loss.ndim != 0:
        raise ValueError(
            f"`losses[{term!r}]` must be a scalar, got shape {list(loss.shape)}: reduce it with `.mean()` or `.sum()`."
        )
    if loss.device != device:
        raise ValueError(
            f"`losses[{term!r}]` is on {loss.device}, the criterion on {device}: all must be on one device; "
            "move them with `.to(device)`."
        )
    return loss


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__
