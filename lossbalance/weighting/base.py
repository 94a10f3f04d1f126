"""Base class of all weighting schemes, and the types that describe a step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from lossbalance._utils.checks import check_terms
from lossbalance._utils.deferred import DeferredModule
from lossbalance._utils.distributed import Ranks
from lossbalance._utils.precision import keep_precision
from lossbalance._utils.warn import RefusedLossWarning, warn_user


class Losses(NamedTuple):
    """The losses of a step, in the order of the terms."""

    given: dict[str, Tensor | None]
    """By name; None where the step lacks the term."""
    row: Tensor
    """As a row ``[terms]``; 0 where the step lacks the term."""
    present: Tensor
    """Whether the step has the term, ``[terms]``."""
    rows: Mapping[str, tuple[str, ...]] = {}
    """The terms of each row, which ``given`` has under one name."""

    @property
    def names(self) -> list[str]:
        """The terms that the step has."""
        return [t for name, loss in self.given.items() if loss is not None for t in self.rows.get(name, (name,))]

    def by_term(self) -> list[Tensor | None]:
        """Returns the loss of each term; a row stands at its first one, and None at the others."""
        return [
            None if i else loss for name, loss in self.given.items() for i, _ in enumerate(self.rows.get(name, (name,)))
        ]

    def split(self) -> dict[str, Tensor | None]:
        """Returns the loss of each term by name, the rows split."""
        split: dict[str, Tensor | None] = {}
        for name, loss in self.given.items():
            columns = self.rows.get(name)
            if columns is None:
                split[name] = loss
            else:
                split |= zip(columns, [None] * len(columns) if loss is None else loss.unbind(), strict=True)
        return split


class Observation(NamedTuple):
    """Losses and gradient norms of one step, over all ranks: rows ``[terms]``, detached, the same on every rank.

    Access fields by name: more may be added.
    """

    losses: Tensor
    """The losses, each averaged over the ranks that have the term; anything where it was not seen."""
    norms: Tensor
    """The norms of the gradients of the unweighted losses, 0 where the term was not seen; meaningless unless the scheme
    uses gradients."""
    seen: Tensor
    """True where the term was there, all losses of the step are finite and, for a scheme that uses gradients, the norm
    is finite and not 0."""
    largest: Tensor | None = None
    """The largest magnitude of an entry of the gradient, 0 where the term was not seen; None unless the scheme uses
    magnitudes."""
    mean_magnitude: Tensor | None = None
    """The mean magnitude of the entries of the gradient, likewise."""


def is_non_finite(losses: Tensor) -> Tensor:
    """Returns whether one of the losses is not finite, ``[]``."""
    return (losses - losses).any()  # nan, and so true, where a loss is not finite


def observe_losses(losses: Tensor, non_finite: Tensor, present: Tensor) -> Observation:
    """Makes the observation of a scheme that uses no gradients.

    Args:
        losses: The losses ``[terms]``.
        non_finite: True or nan if one of them, on any rank, is not finite, ``[]``: then nothing was seen.
        present: Whether the term is there, ``[terms]``.
    """
    return Observation(losses, losses, present > non_finite)


def observe_norms(rows: Tensor, non_finite: Tensor) -> Observation:
    """Makes the observation of a scheme that uses gradients: a norm that is 0 or not finite is one that was not seen.

    Args:
        rows: The losses, the norms of their gradients and, where the scheme uses them, the largest and the mean
            magnitudes of the entries of the gradients, ``[2 or 4, terms]``.
        non_finite: Whether a loss of the step, on any rank, is not finite, ``[]``: then nothing was seen.
    """
    norms, *magnitudes = rows[1:].masked_fill(non_finite, 0.0).nan_to_num(0.0, 0.0, 0.0)
    return Observation(rows[0], norms, norms.bool(), *magnitudes)


class Weighting(DeferredModule, ABC):
    """The rule that turns a row of losses into one total.

    A scheme is made from the names of its terms and its settings, and meets losses as a row ``[terms]``
    in the order of the names. A new one is one file with one class, which

    - implements :meth:`weigh`: the total and the weights, from the losses and the scheme's state;
    - overrides :meth:`observe` if its state is updated by rule: it is called in every training step;
    - sets ``uses_gradients`` or ``uses_magnitudes`` if it needs more than the losses;
    - keeps whatever changes during training in a parameter or a buffer, so that a checkpoint holds it.

    Every scheme guarantees, and the tests check for each one in ``conf/loss/``:

    - ``weights == d total / d losses``, detached, and 0 for a term that is not present;
    - only :meth:`observe` changes state, and never that of a term which was not seen;
    - there is no host-device synchronization: branches on tensors are ``torch.where``.

    Args:
        terms: Names of the losses, in the order of the row.

    Raises:
        TypeError: If ``terms`` is not a list of names.
        ValueError: If ``terms`` is empty or has a name twice.
    """

    uses_gradients: ClassVar[bool] = False
    """Whether :meth:`observe` needs gradient norms, together with the losses they belong to."""
    uses_magnitudes: ClassVar[bool] = False
    """Whether it also needs the largest and the mean magnitude of the entries of the gradients."""

    first_term_leads: ClassVar[bool] = False
    """Whether the first term has a role of its own, so that a state with another first term is refused."""

    _zeros: Tensor
    ranks = Ranks()
    """The ranks that share the terms; the criterion sets it."""
    learning_rate: float | None = None
    """Learning rate for the scheme's parameters, if it has any; None is the optimizer's own."""

    def __init__(self, terms: Iterable[str]) -> None:
        super().__init__()
        self.terms = check_terms(terms)
        args, kwargs = self._arguments  # for a copy; an iterator gives the names only once
        self._arguments = (self.terms, *args[1:]) if args else args, kwargs
        self.register_buffer("_zeros", torch.zeros(len(self.terms)), persistent=False)

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
        """Updates the state from the step; called in training only, before :meth:`weigh`, without autograd."""

    def find_non_finite(self, losses: Tensor) -> Tensor:
        """Returns nan if one of the losses is not finite, else 0, ``[]``: in one operation, as 0 * inf is nan."""
        if len(losses) > len(self.terms):  # there are terms of known weight beside those of the scheme
            return losses.dot(torch.zeros_like(losses))
        return losses.dot(self._zeros.to(losses.dtype))

    @property
    def observes(self) -> bool:
        """Whether :meth:`observe` does anything: whether a class between this one and the scheme overrides it."""
        return type(self).observe is not Weighting.observe

    def forward(
        self,
        losses: Tensor,
        norms: Tensor | None = None,
        largest: Tensor | None = None,
        mean_magnitude: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Observes, in training, and weighs a row in which every term is present.

        Args:
            losses: The losses ``[terms]``.
            norms: The norms of their gradients ``[terms]``, for a scheme that uses them.
            largest: The largest magnitudes in the gradients ``[terms]``, for a scheme that uses them.
            mean_magnitude: The mean magnitudes ``[terms]``, likewise.

        Returns:
            The total ``[]`` and the weights ``[terms]``.
        """
        present = torch.ones_like(losses, dtype=torch.bool)
        if self.training and self.observes and not (self.uses_gradients and norms is None):
            with torch.no_grad():
                values = losses.detach()
                if norms is None:
                    self.observe(observe_losses(values, self.find_non_finite(values), present))
                else:
                    rows = [row for row in (values, norms, largest, mean_magnitude) if row is not None]
                    self.observe(observe_norms(torch.stack(rows), is_non_finite(values)))
        return self.weigh(losses, present)

    def check(self) -> None:
        """Checks what was observed since the last time; synchronizes with the device. A scheme may override it.

        Raises:
            ValueError: If a loss was one that the scheme refuses.
        """

    def train(self, mode: bool = True) -> Self:
        """Switches between training and evaluation, and calls :meth:`check`: what that raises is a warning here."""
        super().train(mode)
        if not self._zeros.is_meta:
            try:
                self.check()
            except ValueError as error:
                warn_user(str(error), RefusedLossWarning)
        return self

    def extra_repr(self) -> str:
        """The names of the terms and the settings, as the constructor takes them."""
        names = [name for name in signature(type(self)).parameters if name != "terms" and hasattr(self, name)]
        settings = {name: getattr(self, name) for name in names}
        shown = [f"{name}={_show(value)}" for name, value in settings.items() if not isinstance(value, nn.Module)]
        return ", ".join([*map(repr, self.terms), *shown])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Weighting":
        return super()._apply(keep_precision(fn), recurse)


def _show(value: object) -> str:
    return f"{value.item():g}" if isinstance(value, Tensor) else getattr(value, "__name__", repr(value))


def weighted_sum(losses: Tensor, weights: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the sum of weight times loss over the terms present, and those weights, in the losses' dtype."""
    weights = (weights * present).to(losses.dtype)
    return weights.dot(losses), weights
