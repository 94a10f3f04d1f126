"""L2 penalty (ridge, weight decay), and L2-SP: the sum of squares, of the weights or of their distance to others."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lossbalance.penalties.base import Penalty
from lossbalance.penalties.reference import Reference, differences
from lossbalance.penalties.selection import Coefficients, Group
from lossbalance.penalties.settings import Patterns, Strength


class L2(Penalty):
    r"""Keeps weights small, or close to a reference: :math:`R(w) = \sum_j w_j^2`, or :math:`\sum_j (w_j - w^0_j)^2`.

    Its gradient is :math:`2 \lambda w`, so that ``L2(wd / 2)`` does what ``weight_decay=wd`` does in SGD. With a
    reference it is :math:`2 \lambda (w - w^0)`, which keeps a network close to the pretrained one (L2-SP).

    The reference is in ``state_dict()``: a new criterion that loads it measures from the same weights. Layers
    that are new, resized or frozen are named in a warning; see :class:`~lossbalance.penalties.reference.Reference`.

    Args:
        strength: :math:`\lambda`, a number or a mapping of patterns to numbers.
        normalization, include, exclude, num_samples, mode, share, clipped: Those of
            :class:`~lossbalance.penalties.base.Penalty`.
        reference: :math:`w^0`. None: 0. ``"initial"``: the weights as they are at the first call in training. A mapping
            of names of parameters to tensors, such as the ``state_dict()`` of the pretrained network; names that no
            penalized parameter has are ignored.

    Raises:
        TypeError: If ``reference`` is neither ``"initial"`` nor a mapping to tensors.
        ValueError: When called, if a mapping has no tensor for any of the penalized parameters.

    Source:
        L2-SP: Li, Grandvalet and Davoine (2018), equation 2, https://arxiv.org/abs/1802.01483

    Example:
        >>> net = torch.nn.Linear(2, 1)
        >>> net.load_state_dict({"weight": torch.tensor([[3.0, 4.0]]), "bias": torch.ones(1)})
        <All keys matched successfully>
        >>> L2(0.5)(net).item(), L2(0.5, "mean")(net).item()
        (12.5, 6.25)
        >>> L2(0.5, reference={"weight": torch.tensor([[1.0, 4.0]])})(net).item()
        2.0
    """

    def __init__(
        self,
        strength: Strength | None = None,
        normalization: str = "sum",
        include: Patterns | None = None,
        exclude: Patterns | None = None,
        num_samples: float | None = None,
        mode: str = "loss",
        share: float | None = None,
        clipped: bool = False,
        reference: str | Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(strength, normalization, include, exclude, num_samples, mode, share, clipped)
        self.reference = None if reference is None else Reference(reference)

    def measure(self, weights: list[Tensor], factors: Coefficients, references: list[Tensor] | None = None) -> Tensor:
        """Sums the squares."""
        if references is not None:
            weights = differences(weights, references)
        return factors[0] * torch.stack(torch._foreach_norm(weights)).square().sum()

    def gradients(
        self, weights: list[Tensor], factors: Coefficients, references: list[Tensor] | None = None
    ) -> list[Tensor]:
        """Doubles the weights."""
        if references is not None:
            weights = differences(weights, references)
        return list(torch._foreach_mul(weights, 2 * factors[0]))

    def add_gradients(self, into: list[Tensor], weights: list[Tensor], factors: Coefficients, *extras: Any) -> None:
        """Adds them in one pass where the factor is a number and there is no reference."""
        (factor,) = factors
        if isinstance(factor, Tensor) or extras:
            super().add_gradients(into, weights, factors, *extras)
        else:
            torch._foreach_add_(into, weights, alpha=2 * factor)

    def groups(self, module: nn.Module) -> list[Group]:
        """Returns the penalized parameters of ``module``, with their references."""
        groups = self.select(module)
        return groups if self.reference is None else self.reference.add_to(groups, module)
