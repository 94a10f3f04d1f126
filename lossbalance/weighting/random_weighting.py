"""Random loss weighting (RLW): weights drawn anew in every step."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lossbalance._utils.checks import check_integer
from lossbalance.weighting.base import Observation, Weighting, weighted_sum
from lossbalance.weighting.random_numbers import draw, read_random, start_random


class RandomWeighting(Weighting):
    r"""Weighs the losses by the softmax of numbers that are drawn anew in every step.

    .. math:: w = \operatorname{softmax}(z), \qquad z_i \sim \mathcal N(0, 1).

    The weights add up to 1, and in the mean all are the same: a test of whether a scheme does better than noise.

    All ranks draw the same weights. The state of the generators is saved: a resumed run draws what an uninterrupted one
    would. A term that a step lacks draws nothing; in ``eval()`` the weights are those of the last training step, before
    training those of the seed.

    Args:
        terms: Names of the losses, in the order of the row.
        seed: Where the draws begin, not negative.

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        TypeError: If ``seed`` is not an integer.
        ValueError: If ``seed`` is negative.

    Source:
        Lin, Ye, Zhang and Tsang (2022), "Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task
        Learning", section 3.1 and algorithm 1, the normal distribution, https://arxiv.org/abs/2111.10603

    Example:
        >>> _, weights = RandomWeighting(["data", "physics"])(torch.tensor([2.0, 4.0]))
        >>> round(weights.sum().item(), 6)
        1.0
    """

    state: Tensor

    def __init__(self, terms: Iterable[str], seed: int = 0) -> None:
        super().__init__(terms)
        self.seed = check_integer("seed", seed, 0)
        self.register_buffer("state", start_random(self.seed, len(self.terms)))

    def observe(self, observation: Observation) -> None:
        """Draws the weights of the step."""
        draw(self.state, observation.seen)

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs the losses by the softmax of what was drawn."""
        normal = torch.erfinv(read_random(self.state).to(losses.dtype)) * 2**0.5  # z
        return weighted_sum(losses, torch.softmax(normal, dim=0), present)
