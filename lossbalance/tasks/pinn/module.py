"""The LightningModule of the physics-informed task."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import SumMetric

from lossbalance.criterion.weighted_loss import WeightedLoss
from lossbalance.penalties import Penalty
from lossbalance.tasks.base import TaskModule
from lossbalance.tasks.pinn.equation import Helmholtz, Network

TERMS = ("residual", "boundary")
Batch = Mapping[str, Tensor]


class PINNModule(TaskModule):
    """Trains a network to solve a differential equation: its residual inside and its condition on the boundary.

    Each term has a forward pass of its own; their gradients meet at the parameters, where a conflict is settled.

    Args:
        net: The network, from points ``[points, 2]`` to values ``[points]``.
        equation: What it is to solve.
        criterion: Weighs the terms ``residual`` and ``boundary``.
        optimizer: Makes the optimizer from groups of parameters.
        penalties: Penalties that are terms beside these, weighed by the criterion.
    """

    def __init__(
        self,
        net: nn.Module,
        equation: Helmholtz,
        criterion: WeightedLoss,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        penalties: Mapping[str, Penalty] | None = None,
    ) -> None:
        super().__init__(net, criterion, optimizer, penalties)
        self.equation = equation
        self.error, self.size = SumMetric(), SumMetric()  # squared, of the error and of the solution
        self._views: dict[str, Network] = criterion.branch_parameters(net)

    def predict(self, batch: Batch) -> dict[str, Network]:
        """Returns the network as each term uses it."""
        return self._views

    @torch.inference_mode(False)
    def losses(self, outputs: Mapping[str, Network], batch: Batch) -> dict[str, Tensor]:
        """Returns the residual and the boundary loss; the residual is made of derivatives, in evaluation too."""
        with torch.enable_grad():
            inside = self.equation.residual(outputs["residual"], batch["inside"])
            boundary = self.equation.boundary(outputs["boundary"], batch["boundary"].clone())
        return {"residual": inside, "boundary": boundary}

    def sizes(self, batch: Batch) -> dict[str, int]:
        """Returns the number of points, the same for each term."""
        return dict.fromkeys(TERMS, len(batch["inside"]))

    def score(self, outputs: Mapping[str, Network], batch: Batch) -> None:
        """Takes the points inside into the relative error."""
        solution = self.equation.solution(batch["inside"])
        self.error.update((self.net(batch["inside"]) - solution).square().sum())
        self.size.update(solution.square().sum())

    def compute_metrics(self) -> dict[str, Tensor]:
        """Returns the norm of the error relative to that of the solution, and resets it; 1 for the solution u = 0."""
        relative = (self.error.compute() / self.size.compute()).sqrt()
        self.error.reset()
        self.size.reset()
        return {"relative_l2": relative}
