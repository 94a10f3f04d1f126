"""Every loss brought to the gradient of the first."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lossbalance._utils.checks import check_decay
from lossbalance.weighting.base import Observation, Weighting, weighted_sum


class LRAnnealing(Weighting):
    r"""Brings the gradient of every other term to the size of the first one's.

    Made for physics-informed networks, where the first term is the residual, of weight 1, and the others are boundary
    and initial conditions. With :math:`n_i` the norm of the gradient of the unweighted loss, the total is

    .. math:: T = L_1 + \sum_{i > 1} \lambda_i L_i, \qquad
              \lambda_i \leftarrow \beta \lambda_i + (1 - \beta) \frac{n_1}{n_i}.

    The paper compares the largest entry of one gradient with the mean entry of the other; the two norms compare
    like with like. The first time that a term is seen together with the first, its weight starts at the ratio itself.

    Args:
        terms: Names of the losses, in the order of the row; the first is the reference.
        decay: :math:`\beta`, in [0, 1).

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        TypeError: If ``decay`` is not a number.
        ValueError: If ``decay`` is not in [0, 1).

    Source:
        Wang, Teng and Perdikaris (2021), "Understanding and mitigating gradient flow pathologies in physics-informed
        neural networks", algorithm 1, https://arxiv.org/abs/2001.04536

    Example:
        >>> scheme = LRAnnealing(["residual", "boundary"])
        >>> total, weights = scheme(torch.tensor([1.0, 1.0]), norms=torch.tensor([50.0, 2.0]))
        >>> weights.tolist()
        [1.0, 25.0]
    """

    uses_gradients = True
    weight: Tensor
    known: Tensor

    def __init__(self, terms: Iterable[str], decay: float = 0.9) -> None:
        super().__init__(terms)
        self.decay = check_decay("decay", decay)
        self.register_buffer("weight", torch.ones(len(self.terms)))  # lambda
        self.register_buffer("known", torch.zeros(len(self.terms), dtype=torch.bool))

    def observe(self, observation: Observation) -> None:
        """Moves the weight of each term that was seen together with the first towards the ratio of their norms."""
        seen = observation.seen & observation.seen[0]
        ratio = observation.norms[0] / torch.where(seen, observation.norms, 1.0)
        gain = torch.where(self.known, 1 - self.decay, 1.0)
        self.weight.copy_(torch.where(seen, self.weight + gain * (ratio - self.weight), self.weight))
        self.known.logical_or_(seen)

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs the first loss by 1 and each other by its lambda."""
        return weighted_sum(losses, self.weight, present)
