"""Small network with a head on an intermediate layer and one on the last layer."""

from collections.abc import Mapping

from torch import Tensor, nn

from lossbalance._utils.checks import check_integer


class IntermediateNet(nn.Module):
    """A few hidden layers; the head ``aux`` reads the first, the head ``main`` the last.

    So the first layer serves both, and where it is narrow it has to choose. ``branches`` holds what is each term's own,
    from that layer on: where gradients are to be compared. The first layer starts as He et al. (2015) start layers of
    rectifiers: with the narrower default of PyTorch, units that raw pixels switch off for good are a matter of luck.

    Args:
        outputs: How many numbers the heads ``aux`` and ``main`` give.
        width: Units in each hidden layer.
        depth: How many hidden layers ``main`` has for itself.
        pixels: How many pixels a picture has.

    Shape:
        Pictures ``[batch, height, width]``; outputs ``[batch, outputs]`` by name of the head.
    """

    def __init__(self, outputs: Mapping[str, int], width: int = 16, depth: int = 1, pixels: int = 88) -> None:
        super().__init__()
        width, depth = check_integer("width", width, 1), check_integer("depth", depth, 0)
        first = nn.Linear(pixels, width)
        nn.init.kaiming_normal_(first.weight)
        nn.init.zeros_(first.bias)
        self.trunk = nn.Sequential(nn.Flatten(), first, nn.ReLU())
        aux = nn.Linear(width, outputs["aux"])
        hidden = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
        main = nn.Sequential(*hidden, nn.Linear(width, outputs["main"]))
        self.branches = nn.ModuleDict({"aux": aux, "main": main})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Returns what each head says."""
        hidden = self.trunk(images)
        return {term: branch(hidden) for term, branch in self.branches.items()}
