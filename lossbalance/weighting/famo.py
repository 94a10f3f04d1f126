"""FAMO (fast adaptive multitask optimization): equal decrease of all log losses."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lossbalance._utils.checks import check_decay, check_names, check_not_negative, check_positive
from lossbalance.weighting.averages import move_average, read_average, set_where, start_average
from lossbalance.weighting.base import Observation, weighted_sum
from lossbalance.weighting.positive import PositiveWeighting

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # of Adam


class FAMO(PositiveWeighting):
    r"""Lets the logarithms of all losses fall at one rate.

    With logits :math:`\xi_i` and :math:`z = \operatorname{softmax}(\xi)`,

    .. math:: T = \sum_i w_i L_i, \qquad w_i = c \, \frac{z_i}{L_i}, \qquad c = \Big(\sum_j \frac{z_j}{L_j}\Big)^{-1},

    so that the gradient of T is that of :math:`c \sum_i z_i \ln L_i` with c held constant, and the weights add up to 1.
    After the step, with the losses :math:`L'` that it has led to, the logits descend

    .. math:: J^\top \delta + \gamma \xi, \qquad \delta_i = \ln L_i - \ln L'_i, \qquad
              J = \frac{\partial z}{\partial \xi},

    by Adam: a term that fell more than the others loses weight.

    **What is exact.** The paper takes :math:`L'` on the *same batch*, by a second forward pass after the optimizer's
    step. Hand these losses in, and every step is the paper's::

        optimizer.step()
        with torch.no_grad():
            criterion.weighting.update(losses_of(batch))

    Without that call the losses of the next batch would have to do, and their noise hides the decrease: on one table
    this cost 57 %. So :math:`\delta` is then the decrease of the logarithm of a running average, which has all of the
    decrease, a little late, and :math:`1 - \beta` of the noise. It costs no second pass and is an approximation.

    A term that a step lacks keeps its logit, and counts with its last decrease in the steps of the others. In
    ``eval()`` the weights are those of the last training step.

    Args:
        terms: Names of the losses, in the order of the row.
        lr: Learning rate of the logits, positive.
        weight_decay: :math:`\gamma`, not negative.
        decay: How much of the running average stays from step to step, in [0, 1); without a call of :meth:`update`.

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        TypeError: If a setting is not a number.
        ValueError: If a setting is out of its range. In training, if a loss is not above 0; :class:`PositiveWeighting`
            says when. Until then such a loss counts as not seen.

    Source:
        Liu, Feng, Stone and Liu (2023), "FAMO: Fast Adaptive Multitask Optimization", algorithm 1,
        https://arxiv.org/abs/2306.03792

    Example:
        >>> total, weights = FAMO(["data", "physics"])(torch.tensor([1.0, 3.0]))
        >>> total, weights
        (tensor(1.5000), tensor([0.7500, 0.2500]))
    """

    logit: Tensor
    moments: Tensor
    steps: Tensor
    latest: Tensor
    waits: Tensor
    fall: Tensor
    average: Tensor
    _betas: Tensor

    def __init__(
        self, terms: Iterable[str], lr: float = 0.025, weight_decay: float = 1e-3, decay: float = 0.99
    ) -> None:
        super().__init__(terms)
        self.lr = check_positive("lr", lr)
        self.weight_decay = check_not_negative("weight_decay", weight_decay)
        self.decay = check_decay("decay", decay)
        count = len(self.terms)
        self.register_buffer("logit", torch.zeros(count))  # xi
        self.register_buffer("moments", torch.zeros(2, count))  # of Adam
        self.register_buffer("steps", torch.zeros(count))  # of Adam
        self.register_buffer("_betas", torch.tensor([[_BETA1], [_BETA2]]), persistent=False)
        self.register_buffer("latest", torch.ones(count))  # L
        self.register_buffer("waits", torch.zeros(count, dtype=torch.bool))  # for the losses after the step
        self.register_buffer("fall", torch.zeros(count))  # delta
        self.register_buffer("average", start_average(count))

    def observe(self, observation: Observation) -> None:
        """Moves the logits by the average, unless :meth:`update` has done so, and stores the losses of the step."""
        losses = observation.losses.to(self.latest.dtype)
        seen = self.find_positive(observation)
        before = read_average(self.average)
        move_average(self.average, losses, seen, self.decay)
        self._descend((before / read_average(self.average)).log(), seen & self.waits)
        set_where(self.latest, seen, losses)
        self.waits.logical_or_(seen)

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs each loss by its part of the logits over its value."""
        return weighted_sum(losses, torch.softmax(self.logit - self.latest.log(), dim=0), present)

    @torch.no_grad()
    def update(self, losses: Mapping[str, Tensor | None]) -> None:
        """Moves the logits by what the optimizer's step did to the losses of its own batch.

        Call it once after each ``optimizer.step()``, on every rank.

        Args:
            losses: The losses of the same batch after the step, by name; None for a term that the batch lacks.

        Raises:
            ValueError: If a term is missing or unknown.
        """
        check_names("losses", losses, self.terms)
        absent = torch.zeros_like(self.latest[0])
        given = [losses[term] for term in self.terms]
        row = torch.stack([absent if loss is None else loss.detach().to(absent) for loss in given])
        sums = self.ranks.sum(torch.stack([row, row != 0]))
        after = sums[0] / sums[1]
        seen = self.waits & (after > 0) & after.isfinite()
        self._descend((self.latest / after).log(), seen)
        self.waits.logical_and_(~seen)

    def _descend(self, fall: Tensor, moves: Tensor) -> None:
        """Takes one step of Adam on the logits that move, where ``fall`` is delta."""
        z = torch.softmax(self.logit, dim=0)
        set_where(self.fall, moves, fall)
        slope = torch.addcmul(self.weight_decay * self.logit, z, self.fall - z.dot(self.fall))
        self.steps.add_(moves)
        self.moments.lerp_(torch.stack([slope, slope.square()]), moves * (1 - self._betas))
        mean, square = self.moments / (1 - self._betas**self.steps)
        logit = torch.addcdiv(self.logit, mean, square.sqrt() + _EPSILON, value=-self.lr)
        set_where(self.logit, moves, logit)
