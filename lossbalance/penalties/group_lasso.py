"""Group lasso: the sum of the norms of groups of weights, which sets whole groups to zero."""

from typing import Any, cast

import torch
from torch import Tensor

from lossbalance._utils.checks import check_choice
from lossbalance.penalties.base import Penalty
from lossbalance.penalties.blocks import Block, Blocks
from lossbalance.penalties.selection import Coefficients
from lossbalance.penalties.settings import Strength


class GroupLasso(Penalty):
    r"""Removes whole inputs, or whole units: :math:`R(w) = \sum_g \sqrt{n_g} \, \|w_g\|_2`, with :math:`n_g` weights in
    group :math:`g`.

    The group of an output holds the weights into one unit of a layer (a row of the matrix; a filter of a convolution),
    that of an input the weights out of one input (a column; the weights of an input channel). So
    ``GroupLasso(strength, "input", include="first_layer", mode="proximal")`` selects the inputs of a network: those
    whose group is zero have no effect. In mode ``"proximal"`` groups are set to exactly zero, by the block soft
    threshold with the learning rate :math:`\eta` of the weight's group in the optimizer,

    .. math:: w_g \leftarrow \max\left(0, 1 - \frac{\eta \lambda \sqrt{n_g}}{\|w_g\|}\right) w_g;

    in the other modes they become small. The gradient is :math:`\lambda \sqrt{n_g} \, w_g / \|w_g\|`, 0 at 0.

    Args:
        strength: :math:`\lambda`, a number or a mapping of patterns to numbers.
        group: ``"output"`` or ``"input"``. The biases of a layer are no part of its groups.
        **settings: The other arguments of :class:`~lossbalance.penalties.base.Penalty`.

    Raises:
        ValueError: If ``group`` is neither.

    Source:
        Yuan and Lin (2006), equation 2.1, https://doi.org/10.1111/j.1467-9868.2005.00532.x

    Example:
        >>> net = torch.nn.Linear(2, 2)
        >>> net.load_state_dict({"weight": torch.tensor([[3.0, 0.0], [4.0, 0.0]]), "bias": torch.ones(2)})
        <All keys matched successfully>
        >>> round(GroupLasso(1.0, "input")(net).item(), 3)  # sqrt(2) * (5 + 0)
        7.071
        >>> round(GroupLasso(1.0, "output")(net).item(), 3)  # sqrt(2) * (3 + 4)
        9.899
    """

    def __init__(self, strength: Strength | None = None, group: Block = "output", **settings: Any) -> None:
        super().__init__(strength, **settings)
        self.rule = self.rule._replace(block=cast("Block", check_choice("group", group, ("output", "input"))))

    def measure(self, weights: list[Tensor], factors: Coefficients, blocks: Blocks) -> Tensor:  # type: ignore[override]
        """Sums the norms of the blocks."""
        sums = torch.stack([norms.sum() for norms in blocks.norms(weights)])
        return factors[0] * (blocks.size**0.5 * blocks.share) * sums.sum()

    def gradients(  # type: ignore[override]
        self, weights: list[Tensor], factors: Coefficients, blocks: Blocks
    ) -> list[Tensor]:
        """Divides each block by its norm."""
        factor = factors[0] * blocks.size**0.5
        norms = [norm.clamp(min=torch.finfo(norm.dtype).tiny) for norm in blocks.norms(weights)]
        pairs = zip(weights, norms, strict=True)
        return [weight * blocks.expand(factor / norm, weight) for weight, norm in pairs]

    def proximal(  # type: ignore[override]
        self, weights: list[Tensor], factors: Coefficients, blocks: Blocks
    ) -> list[Tensor]:
        """Applies the block soft threshold."""
        threshold = factors[0] * blocks.size**0.5
        norms = [norm.clamp(min=torch.finfo(norm.dtype).tiny) for norm in blocks.norms(weights)]
        kept = [(1 - threshold / norm).clamp(min=0) for norm in norms]
        return [weight * blocks.expand(part, weight) for weight, part in zip(weights, kept, strict=True)]

    def extra_repr(self) -> str:
        """The settings."""
        return f"{super().extra_repr()}, group={self.rule.block!r}"
