"""What an aggregator is."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lossbalance._utils.precision import keep_precision, widest


class Aggregator(nn.Module, ABC):
    r"""The rule that settles conflicts between the gradients of terms, from their inner products alone.

    It maps the matrix :math:`G_{ij} = g_i \cdot g_j` of K gradients to K multipliers :math:`m_i`; the layers that all
    terms share then get :math:`\sum_i m_i g_i` in place of the plain sum. A new one is one file with one class, which
    implements :meth:`combine`.

    What every aggregator promises, and the tests ask of each one in ``conf/conflict/``:

    - a factor that all gradients share, such as that of a gradient scaler, changes nothing;
    - a term that is absent, which is a row of zeros, gets 0, and the others get what they would get without it;
    - a matrix that is not finite, or has nothing in it, gives 1 for each term, as in a plain sum, and moves no state;
    - what changes during training is in a buffer, and moves by the matrix alone, so that ranks stay equal;
    - it computes in the widest floating point of the device, and asks the device for nothing (:class:`FromTorchJD`
      does).

    Shape:
        The matrix is ``[terms, terms]``; multipliers are ``[terms]``, in its dtype.
    """

    def forward(self, gramian: Tensor) -> Tensor:
        """Returns the multipliers ``[terms]`` for the inner products ``[terms, terms]``."""
        with torch.no_grad():
            wide = gramian.detach().to(widest(gramian.device))
            largest = wide.abs().max()
            sound = largest / largest == 1  # not where it is 0 or not finite
            wide = torch.where(sound, wide / largest, torch.eye(len(wide), dtype=wide.dtype, device=wide.device))
            present = wide.diagonal() > 0
            tolerance = len(wide) * torch.finfo(gramian.dtype).eps
            multipliers = self.combine(wide, present, tolerance)
            if self.training:
                self.advance(sound)
            return torch.where(sound, torch.where(present, multipliers, 0.0), 1.0).to(gramian.dtype)

    @abstractmethod
    def combine(self, gramian: Tensor, present: Tensor, tolerance: float) -> Tensor:
        """Returns the multipliers ``[terms]``, and changes no state.

        Args:
            gramian: The inner products ``[terms, terms]``, finite, the largest being 1.
            present: Whether the term has a gradient, ``[terms]``; what it gets otherwise does not matter.
            tolerance: An eigenvalue below this part of the largest is taken for 0: the inner products are not known
                any better.
        """

    def advance(self, sound: Tensor) -> None:
        """Moves the state, where ``sound`` holds; called in training only, after :meth:`combine`."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Aggregator":
        return super()._apply(keep_precision(fn), recurse)


def normalize(gramian: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the norms of the gradients ``[terms]`` and the cosines between them ``[terms, terms]``.

    An absent term has norm 1, and cosines of 0.
    """
    norms = torch.where(present, gramian.diagonal(), 1.0).sqrt()
    return norms, gramian / norms / norms.unsqueeze(1)
