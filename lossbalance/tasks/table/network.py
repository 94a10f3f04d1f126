"""Multilayer perceptron with a linear head per target."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from lossbalance._utils.checks import check_integer, check_number


class TableNet(nn.Module):
    """A few hidden layers that all targets share, and a linear head for each.

    Args:
        inputs: Number of features.
        outputs: Output size of each head.
        width: Units in a hidden layer.
        depth: Number of hidden layers; 0 for a linear model.
        dropout: The part of the hidden units that is left out in training, in [0, 1).

    Shape:
        Features ``[batch, inputs]``; a list of outputs ``[batch, outputs[i]]``.
    """

    def __init__(
        self, inputs: int, outputs: Sequence[int], width: int = 64, depth: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__()
        width, depth = check_integer("width", width, 1), check_integer("depth", depth, 0)
        dropout = check_number("dropout", dropout, "a number in [0, 1)", lambda number: 0 <= number < 1)
        sizes = [inputs, *[width] * depth]
        layers = [
            layer
            for first, second in pairwise(sizes)
            for layer in (nn.Linear(first, second), nn.ReLU(), nn.Dropout(dropout))
        ]
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleList(nn.Linear(sizes[-1], count) for count in outputs)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Returns the outputs of each head."""
        hidden = self.trunk(features)
        return [head(hidden) for head in self.heads]
