"""Losses that train at one pace."""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from lossbalance._utils.checks import check_number, check_word
from lossbalance.weighting.base import Observation, Weighting, sum_to_count, weighted_sum

_FIRST_LOSSES = 5  # a first loss is noisy: average a few


class GradNorm(Weighting):
    r"""Gives the terms that train slowly the larger gradients.

    With :math:`n_i` the norm of the gradient of the unweighted loss at its probes and :math:`G_i = w_i n_i`, each
    gradient has a target: the mean, more for a term that has come down less than the others:

    .. math:: \hat G_i = \bar G \, r_i^\alpha, \qquad
              r_i = \frac{L_i / L_i(0)}{\operatorname{mean}_j L_j / L_j(0)}.

    The weights descend :math:`\sum_i |G_i - \hat G_i|` with the targets held constant. Its gradient needs no second
    backward pass: :math:`\partial / \partial w_i = n_i \operatorname{sign}(G_i - \hat G_i)`. The step is taken on
    :math:`\log w_i`, in units of :math:`\bar G`, so that weights stay positive and neither the units of the losses nor
    how far apart the weights are changes the pace:

    .. math:: \log w_i \leftarrow \log w_i - \eta \, \frac{w_i n_i}{\bar G} \operatorname{sign}(G_i - \hat G_i),
              \qquad \sum_i w_i = K.

    Args:
        terms: Names of the losses, in the order of the row.
        restoring_force: :math:`\alpha`, finite and not negative: how strongly a slow term is helped; 0 makes all
            gradients equal.
        lr: :math:`\eta`, positive: a step changes a weight by about this fraction.
        initial: ``"balanced"`` starts each weight at one over its first norm, ``"equal"``, as in the paper, at 1.
            Until they are balanced, the largest gradient fills the optimizer's second moments.

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        TypeError: If ``restoring_force`` or ``lr`` is not a number.
        ValueError: If one of them is out of its range, or ``initial`` is not a known word.

    Source:
        Chen, Badrinarayanan, Lee and Rabinovich (2018), "GradNorm: Gradient Normalization for Adaptive Loss Balancing
        in Deep Multitask Networks", section 3.2, eq. 1 and 2, https://arxiv.org/abs/1711.02257

    Example:
        >>> scheme = GradNorm(["aux", "main"])
        >>> total, weights = scheme(torch.tensor([1.0, 1.0]), norms=torch.tensor([3.0, 1.0]))
        >>> weights.tolist()
        [0.5, 1.5]
    """

    uses_gradients = True
    weight: Tensor
    first_loss: Tensor
    steps: Tensor

    def __init__(
        self,
        terms: Iterable[str],
        restoring_force: float = 1.5,
        lr: float = 0.025,
        initial: Literal["balanced", "equal"] = "balanced",
    ) -> None:
        super().__init__(terms)
        kind = "a number, finite and not negative"
        self.restoring_force = check_number(
            "restoring_force", restoring_force, kind, lambda number: 0 <= number < math.inf
        )
        self.lr = check_number("lr", lr, "a positive, finite number", lambda number: 0 < number < math.inf)
        self.initial = check_word("initial", initial, ["balanced", "equal"])
        self.register_buffer("weight", torch.zeros(len(self.terms)))  # w; 0 until the first norm is known
        self.register_buffer("first_loss", torch.zeros(len(self.terms)))  # L(0)
        self.register_buffer("steps", torch.zeros(len(self.terms)))  # how often each term was seen

    def observe(self, observation: Observation) -> None:
        """Takes one step on the weights of the terms that were seen."""
        losses, norms, seen = observation.losses, observation.norms, observation.seen
        self._note_first(losses, seen)
        slope, mean = self.slope(losses, norms)
        step = self.lr * self.weight * slope / mean  # nan where no term is known yet
        weight = self.weight * step.nan_to_num().clamp(-1, 1).neg().exp()
        start = mean.nan_to_num(1.0) / norms if self.initial == "balanced" else torch.ones_like(mean)
        weight = torch.where(seen & self.weight.logical_not(), start, weight)
        self.weight.copy_(sum_to_count(weight, unknown=0.0))

    def slope(self, losses: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the derivative of the sum of ``|G - target|`` by each weight, and the mean of G.

        Args:
            losses: The losses ``[terms]``.
            norms: The norms of their gradients ``[terms]``; 0 for a term that was not seen.

        Returns:
            The derivative ``[terms]``, 0 for a term that was not seen or has no weight yet, and the mean ``[]``.
        """
        gradient = self.weight * norms  # G
        moves = gradient.bool()
        count = moves.sum()
        mean = gradient.sum() / count  # G bar
        progress = torch.where(moves, losses / self.first_loss, 0.0).clamp(min=0)  # L / L(0)
        rate = progress / (progress.sum() / count)  # r
        target = mean * rate**self.restoring_force
        return torch.where(moves, norms * torch.sign(gradient - target), 0.0), mean

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs each loss by where its weight has come to."""
        return weighted_sum(losses, torch.where(self.weight.bool(), self.weight, 1.0), present)

    def _note_first(self, losses: Tensor, seen: Tensor) -> None:
        self.steps.add_(seen)
        counts = seen & (self.steps <= _FIRST_LOSSES)
        self.first_loss.add_(torch.where(counts, (losses - self.first_loss) / self.steps, 0.0))
