"""Weights from the progress since the step before and, now and then, since the first."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lossbalance._utils.checks import check_integer, check_number, check_positive
from lossbalance.weighting.base import Observation, weighted_sum
from lossbalance.weighting.positive import PositiveWeighting
from lossbalance.weighting.random_numbers import draw, read_random, start_random


class ReLoBRaLo(PositiveWeighting):
    r"""Balances the losses by their relative progress, with a random look back.

    With the progress since step :math:`t'`,

    .. math:: \hat\lambda_i(t, t') = K \operatorname{softmax}_i\!\left(\frac{L_i(t)}{T \, L_i(t')}\right), \qquad
              w_i(t) = \alpha \big(\rho \, w_i(t-1) + (1 - \rho) \, \hat\lambda_i(t, 0)\big)
                       + (1 - \alpha) \, \hat\lambda_i(t, t-1),

    where :math:`\rho` is 1 or 0, drawn in each step with the mean ``rho``. As in the authors' code a term weighs 1 in
    its first step, and :math:`\hat\lambda(1, 0)` in its second.

    All ranks draw the same :math:`\rho`, and the state of the generator is saved. A term that a step lacks keeps its
    weight, and counts as one without progress in the sums of the others.

    Args:
        terms: Names of the losses, in the order of the row.
        alpha: :math:`\alpha`, in [0, 1]: how much stays from step to step.
        temperature: T, above 0: the larger, the more equal the weights.
        rho: The mean of :math:`\rho`, in [0, 1].
        seed: Where the draws begin, not negative.

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        TypeError: If a setting is not a number.
        ValueError: If a setting is out of its range. In training, if a loss is not above 0; :class:`PositiveWeighting`
            says when. Until then such a loss counts as not seen.

    Source:
        Bischof and Kraus (2021), "Multi-Objective Loss Balancing for Physics-Informed Deep Learning", section 3.2,
        https://arxiv.org/abs/2110.09813

    Example:
        >>> scheme = ReLoBRaLo(["falls", "stands"], temperature=1.0)
        >>> for losses in ([4.0, 1.0], [2.0, 1.0]):
        ...     total, weights = scheme(torch.tensor(losses))
        >>> weights  # 2 softmax([1 / 2, 1])
        tensor([0.7551, 1.2449])
    """

    first_loss: Tensor
    latest: Tensor
    weight: Tensor
    steps: Tensor
    state: Tensor

    def __init__(
        self, terms: Iterable[str], alpha: float = 0.999, temperature: float = 0.1, rho: float = 0.999, seed: int = 0
    ) -> None:
        super().__init__(terms)
        part, within = "a number in [0, 1]", _is_part
        self.alpha = check_number("alpha", alpha, part, within)
        self.temperature = check_positive("temperature", temperature)
        self.rho = check_number("rho", rho, part, within)
        self.seed = check_integer("seed", seed, 0)
        self.register_buffer("first_loss", torch.ones(len(self.terms)))  # L(0)
        self.register_buffer("latest", torch.ones(len(self.terms)))  # L(t - 1)
        self.register_buffer("weight", torch.ones(len(self.terms)))  # w
        self.register_buffer("steps", torch.zeros(len(self.terms)))  # how often each term was seen, up to 2
        self.register_buffer("state", start_random(self.seed, 1))

    def observe(self, observation: Observation) -> None:
        """Moves the weights of the terms that were seen."""
        seen = observation.seen & (observation.losses > 0)
        losses = torch.where(seen, observation.losses.to(self.weight.dtype), self.latest)
        draw(self.state, seen.any())
        keeps = read_random(self.state) < 2 * self.rho - 1  # rho
        history = torch.where(keeps, self.weight, self._balance(losses / self.first_loss))
        alpha = self.alpha * (self.steps - 1).clamp(min=0)  # 0 in the second step
        weight = torch.lerp(self._balance(losses / self.latest), history, alpha)
        self.weight.copy_(torch.where(seen & (self.steps > 0), weight, self.weight))
        self.first_loss.copy_(torch.where(self.steps > 0, self.first_loss, losses))
        self.latest.copy_(losses)
        self.steps.add_(seen).clamp_(max=2)
        super().observe(observation)

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs each loss by where its weight has come to."""
        return weighted_sum(losses, self.weight, present)

    def _balance(self, progress: Tensor) -> Tensor:
        return len(self.terms) * torch.softmax(progress / self.temperature, dim=0)


def _is_part(number: float) -> bool:
    return 0 <= number <= 1
