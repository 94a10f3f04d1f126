"""A gradient scheme that weighs by fixed weights and writes down what it is shown."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lossbalance.weighting import Observation, Weighting, weighted_sum


class Recorder(Weighting):
    """Keeps each observation in ``seen``."""

    uses_gradients = True

    def __init__(self, terms: Sequence[str], weights: Sequence[float]) -> None:
        super().__init__(terms)
        self.weight = torch.tensor(weights)
        self.shown: list[Observation] = []

    def observe(self, observation: Observation) -> None:
        """Writes the observation down."""
        self.shown.append(observation)

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs by the given weights."""
        return weighted_sum(losses, self.weight, present)
