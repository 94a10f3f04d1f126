"""Abstract base class of aggregators."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lossbalance._utils.precision import keep_precision, widest


class Aggregator(nn.Module, ABC):
    r"""Combines the gradients of the terms, from their inner products alone.

    It maps the Gram matrix :math:`G_{ij} = g_i \cdot g_j` of K gradients to K multipliers :math:`m_i`; the shared
    layers then receive :math:`\sum_i m_i g_i` in place of the plain sum. A new aggregator is one file with one class
    that implements :meth:`combine`.

    Every aggregator guarantees the following, tested for each one in ``conf/conflict/``:

    - it is invariant to a factor common to all gradients, such as that of a gradient scaler;
    - an absent term, a row of zeros, gets multiplier 0, and the others get the multipliers they would get without it;
    - a matrix that is not finite, or all zeros, gives multipliers of 1, the plain sum, and updates no state;
    - state is kept in buffers and updated from the matrix alone, so that ranks stay equal;
    - it computes in the widest floating-point type of the device, without host-device synchronization
      (:class:`FromTorchJD` synchronizes).

    Shape:
        The matrix is ``[terms, terms]``; multipliers are ``[terms]``, in its dtype.
    """

    def forward(self, gramian: Tensor) -> Tensor:
        """Returns the multipliers ``[terms]`` for the Gram matrix ``[terms, terms]``."""
        with torch.no_grad():
            wide = gramian.detach().to(widest(gramian.device))
            largest = wide.abs().max()
            valid = largest / largest == 1  # false where it is 0 or not finite
            wide = torch.where(valid, wide / largest, torch.eye(len(wide), dtype=wide.dtype, device=wide.device))
            present = wide.diagonal() > 0
            tolerance = len(wide) * torch.finfo(gramian.dtype).eps
            multipliers = self.combine(wide, present, tolerance)
            if self.training:
                self.update_state(valid)
            return torch.where(valid, torch.where(present, multipliers, 0.0), 1.0).to(gramian.dtype)

    def set_terms(self, terms: Sequence[str]) -> None:
        """Sets the names of the terms, in the order of the matrix; called by the criterion, once it is made.

        Raises:
            ValueError: If the aggregator refers to a term that is not among them.
        """

    @abstractmethod
    def combine(self, gramian: Tensor, present: Tensor, tolerance: float) -> Tensor:
        """Computes the multipliers ``[terms]``, without any change of state.

        Args:
            gramian: The inner products ``[terms, terms]``, finite, scaled so that the largest magnitude is 1.
            present: Whether each term has a gradient, ``[terms]``; the multiplier of an absent one is ignored.
            tolerance: The relative precision of the inner products: eigenvalues below this fraction of the largest
                count as 0.
        """

    def update_state(self, valid: Tensor) -> None:
        """Updates the state where ``valid``, ``[]``, is true; called in training only, after :meth:`combine`."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Aggregator":
        return super()._apply(keep_precision(fn), recurse)


def normalize(gramian: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the norms of the gradients ``[terms]`` and their pairwise cosines ``[terms, terms]``.

    An absent term has norm 1, and cosines of 0.
    """
    norms = torch.where(present, gramian.diagonal(), 1.0).sqrt()
    return norms, gramian / norms / norms.unsqueeze(1)
