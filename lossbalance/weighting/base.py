"""What a weighting scheme is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from lossbalance._utils.checks import check_terms
from lossbalance._utils.precision import keep_precision


class Observation(NamedTuple):
    """What all ranks together saw of the terms in one step: rows ``[terms]``, detached, the same on every rank."""

    losses: Tensor
    """The losses, each averaged over the ranks that have the term."""
    norms: Tensor
    """The norms of the gradients of the unweighted losses; meaningless unless the scheme uses gradients."""
    seen: Tensor
    """True where the term was there and all that was seen of it is finite."""


class Weighting(nn.Module, ABC):
    """The rule that turns a row of losses into one total.

    A scheme is made from the names of its terms and its settings, and meets losses as a row ``[terms]``
    in the order of the names. A new one is one file with one class, which

    - implements :meth:`weigh`: the total and the weights, from the losses and the scheme's state;
    - overrides :meth:`observe` if its state moves by rule, and sets ``uses_losses`` or ``uses_gradients``;
    - keeps whatever changes during training in a parameter or a buffer, so that a checkpoint holds it.

    What every scheme promises, and the tests ask of each one in ``conf/loss/``:

    - ``weights == d total / d losses``, detached, and 0 for a term that is not present;
    - only :meth:`observe` changes state, and never that of a term which was not seen;
    - nothing asks the device for a value: branches on tensors are ``torch.where``.

    Args:
        terms: Names of the losses, in the order of the row.

    Raises:
        TypeError: If ``terms`` is not a list of names.
        ValueError: If ``terms`` is empty or has a name twice.
    """

    uses_losses: ClassVar[bool] = False
    """Whether :meth:`observe` needs the values of the losses, those of the step at hand."""
    uses_gradients: ClassVar[bool] = False
    """Whether :meth:`observe` needs gradient norms, together with the losses they belong to."""

    learning_rate: float | None = None
    """What the optimizer should train the parameters with, if the scheme has any; None is the optimizer's own rate."""

    def __init__(self, terms: Iterable[str]) -> None:
        super().__init__()
        self.terms = check_terms(terms)

    @abstractmethod
    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Combines the losses of one step, and changes no state.

        Args:
            losses: The losses ``[terms]``; 0 where a term is absent.
            present: Whether the step has the term, ``[terms]``, boolean.

        Returns:
            The total ``[]``, differentiable, and the weights ``[terms]``, detached.
        """

    def observe(self, observation: Observation) -> None:
        """Moves the state by what was seen; called in training only, before :meth:`weigh`, without autograd."""

    def forward(self, losses: Tensor, norms: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Observes, in training, and weighs a row in which every term is present.

        Args:
            losses: The losses ``[terms]``.
            norms: The norms of their gradients ``[terms]``, for a scheme that uses them.

        Returns:
            The total ``[]`` and the weights ``[terms]``.
        """
        if self.training and (self.uses_losses or (self.uses_gradients and norms is not None)):
            with torch.no_grad():
                values = losses.detach()
                norms = torch.ones_like(values) if norms is None else norms
                seen = (values.isfinite() & norms.isfinite()).all().expand_as(values)
                self.observe(Observation(values, torch.where(seen, norms, 0.0), seen))
        return self.weigh(losses, torch.ones_like(losses, dtype=torch.bool))

    def extra_repr(self) -> str:
        """The names of the terms."""
        return ", ".join(map(repr, self.terms))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Weighting":
        return super()._apply(keep_precision(fn), recurse)


def weighted_sum(losses: Tensor, weights: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the sum of weight times loss over the terms present, and those weights, in the losses' dtype."""
    weights = (weights * present).to(losses.dtype)
    return weights.dot(losses), weights


def sum_to_count(weights: Tensor, unknown: float = 1.0) -> Tensor:
    """Returns the positive weights scaled to add up to their number, and ``unknown`` in place of each 0."""
    known = weights.bool()
    return torch.where(known, weights * (known.sum() / weights.sum()), unknown)
