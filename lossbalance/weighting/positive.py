"""Base class of the schemes for positive losses."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from lossbalance.weighting.base import Observation, Weighting


class PositiveWeighting(Weighting):
    """A scheme that is defined for losses above zero, and refuses others by name.

    The lowest loss of each term is recorded on the device. The host reads it in the first training step, and then only
    where it waits for the device anyway: when the scheme is switched by ``train()`` or ``eval()``, as in every epoch
    with a validation; there it warns. A loop that never switches may call :meth:`check` itself. Inside a compiled graph
    the first step is not checked either.
    """

    allowed: ClassVar[str] = "above 0"
    """What a loss must be, for the message."""
    lowest: Tensor
    _unseen: Tensor

    def __init__(self, terms: Iterable[str]) -> None:
        super().__init__(terms)
        self.register_buffer("lowest", torch.full((len(self.terms),), torch.inf), persistent=False)
        self.register_buffer("_unseen", torch.full((len(self.terms),), torch.nan), persistent=False)
        self._checked = False

    def find_positive(self, observation: Observation) -> Tensor:
        """Records the lowest losses; returns whether each term was seen with a loss above 0, ``[terms]``."""
        latest = torch.where(observation.seen, observation.losses, self._unseen)
        self.record_lowest(latest)
        return latest > 0

    def record_lowest(self, latest: Tensor) -> None:
        """Records the lowest losses, and checks the first.

        Args:
            latest: The losses of the step ``[terms]``; what was not seen is nan or above 0.
        """
        torch.fmin(self.lowest, latest, out=self.lowest)
        if not (self._checked or torch.compiler.is_compiling()):
            self.check()

    def refused(self) -> Tensor:
        """Whether the lowest loss of each term is one that the scheme is not defined for, ``[terms]``."""
        return self.lowest <= 0

    def check(self) -> None:
        """Checks the losses seen so far, once; synchronizes with the device.

        Raises:
            ValueError: If one was negative, or zero where the scheme takes its logarithm; the message names the term.
        """
        lowest = self.lowest.tolist()
        self._checked = min(lowest) < torch.finfo(torch.float32).max
        rows = zip(self.terms, lowest, self.refused().tolist(), strict=True)
        refused = {term: loss for term, loss, is_refused in rows if is_refused}
        if refused:
            self.lowest.fill_(torch.inf)
            raise ValueError(
                f"`losses` must be {self.allowed} for {type(self).__name__}, got {refused}: add to such a term what "
                "makes its smallest value positive, leave it out (None) where it is 0, or weigh it by Fixed or "
                "GradBalance."
            )
