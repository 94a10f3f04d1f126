"""Reader of losses: from a mapping by name to a row of terms."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lossbalance._utils.checks import check_names
from lossbalance.weighting.base import Losses


class LossReader:
    """Brings the losses of a step in order, once they are sound.

    Args:
        terms: Names of the losses, in the order of the row.
    """

    def __init__(self, terms: tuple[str, ...]) -> None:
        self.terms = terms
        self._complete = torch.ones(len(terms), dtype=torch.bool)  # what is present where nothing is missing

    def read(self, losses: Mapping[str, Tensor | None], device: torch.device) -> Losses:
        """Returns the losses, as tensors on ``device``, in fp32 or wider.

        Raises:
            TypeError: If ``losses`` is not a mapping, or a loss not a tensor in floating point.
            ValueError: If a term is missing or unknown, or a loss not a scalar, or on another device.
        """
        given = {term: _whole(losses[term]) for term in self._check(losses)}
        here = {term: _check_loss(term, loss, device) for term, loss in given.items() if loss is not None}
        dtypes = {loss.dtype for loss in here.values()}
        dtype = torch.float64 if torch.float64 in dtypes else torch.float32
        if dtypes != {dtype}:
            here = {term: loss.to(dtype) for term, loss in here.items()}
        if len(here) == len(self.terms):
            if self._complete.device != device:
                self._complete = torch.ones(len(self.terms), dtype=torch.bool, device=device)
            return Losses(given, torch.stack([*here.values()]), self._complete)
        absent = torch.zeros((), dtype=dtype, device=device, requires_grad=not here)
        row = torch.stack([here.get(term, absent) for term in self.terms])
        present = torch.tensor([term in here for term in self.terms])
        return Losses(given, row, present.to(device, non_blocking=True))  # without waiting for the device

    def _check(self, losses: object) -> tuple[str, ...]:
        if not isinstance(losses, Mapping):
            example = ", ".join(f'"{term}": {term}_loss' for term in self.terms)
            raise TypeError(f"`losses` must map each term to its loss, got {_kind(losses)}: write {{{example}}}.")
        if losses.keys() != set(self.terms):
            check_names("losses", losses, self.terms)
        return self.terms


def _whole(loss: Tensor | None) -> Tensor | None:
    """Returns a loss that is a DTensor as an ordinary tensor, summed over the ranks that each have a part of it."""
    return getattr(loss, "full_tensor", lambda: loss)()


def _check_loss(term: str, loss: object, device: torch.device) -> Tensor:
    if not isinstance(loss, Tensor) or not loss.is_floating_point():
        kind = str(loss.dtype) if isinstance(loss, Tensor) else _kind(loss)
        raise TypeError(
            f"`losses[{term!r}]` must be a scalar tensor in floating point, got {kind}: pass None for an absent term."
        )
    if loss.ndim != 0:
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
