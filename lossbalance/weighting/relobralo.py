"""ReLoBRaLo (relative loss balancing with random lookback)."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lossbalance._utils.checks import check_integer, check_number, check_positive
from lossbalance.weighting.averages import set_where
from lossbalance.weighting.base import Observation, weighted_sum
from lossbalance.weighting.positive import PositiveWeighting
from lossbalance.weighting.random_numbers import draw, read_random, start_random


class ReLoBRaLo(PositiveWeighting):
    r"""Balances the losses by their relative progress, with random lookback.

    With the progress since step :math:`t'`,

    .. math:: \hat\lambda_i(t, t') = K \operatorname{softmax}_i\!\left(\frac{L_i(t)}{T \, L_i(t')}\right), \qquad
              w_i(t) = \alpha \big(\rho \, w_i(t-1) + (1 - \rho) \, \hat\lambda_i(t, 0)\big)
                       + (1 - \alpha) \, \hat\lambda_i(t, t-1),

    where :math:`\rho` is 1 or 0, drawn in each step with the mean ``rho``. As in the authors' code a term weighs 1 in
    its first step, and :math:`\hat\lambda(1, 0)` in its second.

    All ranks and terms draw the same :math:`\rho`, and the state of the generators is saved. A term that a
    step lacks keeps its weight, and counts with its last progress in the sums of the others: terms that are never in
    one step get the weights that they would get together.

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

    losses: Tensor
    weight: Tensor
    progress: Tensor
    stays: Tensor
    states: Tensor

    def __init__(
        self, terms: Iterable[str], alpha: float = 0.999, temperature: float = 0.1, rho: float = 0.999, seed: int = 0
    ) -> None:
        super().__init__(terms)
        part, within = "a number in [0, 1]", _is_part
        self.alpha = check_number("alpha", alpha, part, within)
        self.temperature = check_positive("temperature", temperature)
        self.rho = check_number("rho", rho, part, within)
        self.seed = check_integer("seed", seed, 0)
        self.register_buffer("losses", torch.full((2, len(self.terms)), torch.nan))  # L(0), L(t - 1); nan before
        self.register_buffer("weight", torch.ones(len(self.terms)))  # w
        self.register_buffer("progress", torch.ones(2, len(self.terms)))  # L(t) / L(0), L(t) / L(t - 1)
        self.register_buffer("stays", torch.zeros(len(self.terms)))  # alpha, and 0 in the second step of a term
        self.register_buffer("states", start_random(self.seed, 1).repeat(len(self.terms)))  # one sequence

    def observe(self, observation: Observation) -> None:
        """Moves the weights of the terms that were seen."""
        seen = self.find_positive(observation)
        first, latest = self.losses
        losses = torch.where(seen, observation.losses.to(latest.dtype), latest)
        set_where(self.progress, seen, (losses / self.losses).nan_to_num(1.0))
        since_first, since_last = len(self.terms) * torch.softmax(self.progress / self.temperature, dim=1)
        draw(self.states, seen)
        keeps = read_random(self.states) < 2 * self.rho - 1  # rho
        history = torch.where(keeps, self.weight, since_first)
        known = first > 0
        moves = seen & known
        set_where(self.weight, moves, torch.lerp(since_last, history, self.stays))
        self.stays.masked_fill_(moves, self.alpha)
        torch.stack([torch.where(known, first, losses), losses], out=self.losses)

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs each loss by its current weight."""
        return weighted_sum(losses, self.weight, present)

    @property
    def state(self) -> Tensor:
        """The state ``[1]`` of the generator of the first term; those of the others draw the same numbers."""
        return self.states[:1]

    @property
    def latest(self) -> Tensor:
        """The last losses ``[terms]``; nan for a term that was never seen."""
        return self.losses[1]


def _is_part(number: float) -> bool:
    return 0 <= number <= 1
