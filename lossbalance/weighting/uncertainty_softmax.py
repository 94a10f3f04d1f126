"""Soft optimal uncertainty weighting (UW-SO): a softmax of inverse losses, in closed form."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lossbalance._utils.checks import check_decay, check_flag, check_positive
from lossbalance.weighting.base import Observation, weighted_sum
from lossbalance.weighting.positive import PositiveWeighting

_UNSEEN = torch.finfo(torch.float32).max  # a loss without end: the smallest weight


class UncertaintySoftmax(PositiveWeighting):
    r"""Weighs each loss by a softmax of the inverse losses.

    The weight that :class:`Uncertainty` would learn is in the end a multiple of :math:`1 / L_i`. Here it is computed
    at each step, from a running average :math:`a_i` of the loss over steps and ranks, which starts at its first value,
    and softened by a temperature :math:`T`:

    .. math:: w_i = \frac{a_i^{-1/T}}{\sum_j a_j^{-1/T}}.

    T is a plain number: at 1 all weighted losses are equal (the paper's UW-O), towards infinity all weights are. The
    weights add up to 1.

    ``scale_free=False`` is the paper's form, a softmax of the inverse losses of the step at hand:

    .. math:: w_i = \frac{e^{1 / (T L_i)}}{\sum_j e^{1 / (T L_j)}}.

    There **T has a unit**, one over that of a loss, and has to be tuned anew for every task: at T = 1, losses of .005
    and .5 weigh 1 and 0. On sixteen tables one run with T = 1 ended 39 % above the best fixed weights of a sweep on
    average, 170 % at worst. The scale-free form at T = 1 gives all weight to the loss of a class that is learned by
    heart: 53 % and 266 %. Hence the milder default of 2, which brings losses whose units are far apart less close to
    each other: 2.2 % and 17 %. With ``WeightedLoss(loss_sum=K)`` T = 1.25 did better: 4.8 % below on average, at
    worst .8 % above (``scripts/study.py one_run --variants``).

    A term that a step lacks keeps its last average in the sums, and has weight 0 itself. In ``eval()`` the weights are
    those of the last training step; before training all are equal.

    Args:
        terms: Names of the losses, in the order of the row.
        temperature: :math:`T`, above 0: without a unit if ``scale_free``, else in the unit of one over a loss.
        scale_free: Whether T has no unit.
        decay: How much of the running average stays from step to step, in [0, 1), if ``scale_free``.

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        TypeError: If ``temperature`` or ``decay`` is not a number, or ``scale_free`` neither True nor False.
        ValueError: If ``temperature`` is not positive and finite, or ``decay`` not in [0, 1). In training, if a loss is
            not above 0; :class:`PositiveWeighting` says when. Until then such a loss counts as not seen.

    Source:
        Kirchdorfer et al. (2024), https://arxiv.org/abs/2408.07985, UW-SO and UW-O; the scale-free form is ours.

    Example:
        >>> scheme = UncertaintySoftmax(["small", "large"], temperature=2.0)
        >>> total, weights = scheme(torch.tensor([1.0, 9.0]))
        >>> weights
        tensor([0.7500, 0.2500])
    """

    average: Tensor
    gain: Tensor

    def __init__(
        self, terms: Iterable[str], temperature: float = 2.0, scale_free: bool = True, decay: float = 0.9
    ) -> None:
        super().__init__(terms)
        self.temperature = check_positive("temperature", temperature)
        self.scale_free = check_flag("scale_free", scale_free)
        self.decay = check_decay("decay", decay)
        self.register_buffer("average", torch.full((len(self.terms),), _UNSEEN))  # a
        self.register_buffer("gain", torch.ones(len(self.terms)))  # 1 - decay once the term was seen

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs each loss by the softmax of its inverse."""
        if self.scale_free:
            logits = torch.xlogy(-1 / self.temperature, self.average)  # -ln(a) / T: ln w, up to a constant
        else:
            logits = (1 / (self.average * self.temperature)).clamp(max=_UNSEEN)
        return weighted_sum(losses, torch.softmax(logits, dim=0), present)

    def observe(self, observation: Observation) -> None:
        """Moves the averages towards the losses of the step."""
        seen = self.find_positive(observation)
        self.average.lerp_(torch.where(seen, observation.losses.to(self.average.dtype), self.average), self.gain)
        self.gain.masked_fill_(seen, 1 - self.decay if self.scale_free else 1.0)
