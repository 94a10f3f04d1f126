"""The network of the physics-informed task."""

from itertools import pairwise

from torch import Tensor, nn

from lossbalance._utils.checks import check_integer


class TanhNet(nn.Module):
    """Maps points ``[points, 2]`` to values ``[points]`` by hidden layers of tanh units, initialized as Glorot has it.

    Args:
        width: Units in a hidden layer.
        depth: Hidden layers.
    """

    def __init__(self, width: int = 50, depth: int = 3) -> None:
        super().__init__()
        sizes = [2, *[check_integer("width", width, 1)] * check_integer("depth", depth, 1)]
        hidden = [layer for size in pairwise(sizes) for layer in (nn.Linear(*size), nn.Tanh())]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, 1))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the values."""
        return self.layers(x).squeeze(1)
