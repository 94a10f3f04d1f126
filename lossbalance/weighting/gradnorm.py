"""GradNorm (gradient normalization): equal training rates of all terms."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import hardshrink, threshold

from lossbalance._utils.checks import check_choice, check_names, check_not_negative, check_positive
from lossbalance._utils.terms import expand
from lossbalance.weighting.averages import TINY, average_first, set_where, start_first
from lossbalance.weighting.base import Observation, weighted_sum
from lossbalance.weighting.positive import PositiveWeighting

_ROUNDING = 1e-5  # how far from its target, relative to the mean, a gradient is at it


class GradNorm(PositiveWeighting):
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

    A term that a step lacks stands in the means with its last loss and norm, and keeps its weight: terms that are never
    in one step get the weights that they would get together. No weight is above K, so neither is a weighted gradient
    above K times the plain one. A negative loss is refused by name: it has no rate of training. Until then it counts as
    not seen.

    Args:
        terms: Names of the losses, in the order of the row.
        restoring_force: :math:`\alpha`, finite and not negative: how strongly a slow term is helped; 0 makes all
            gradients equal. A loss that cannot come down, because it is noise, counts as slow: at 1.5, which the paper
            uses for its network of three tasks, one run ended 30 % above the best fixed weights of a sweep on average
            over sixteen tables, 132 % at worst; at .12, which it uses for two, 2.6 % and 21 %
            (``scripts/study.py one_run --variants``).
        lr: :math:`\eta`, positive: a step changes a weight by about this fraction.
        initial: ``"balanced"`` starts each weight at one over its first norm, ``"equal"``, as in the paper, at 1. Until
            they are balanced, the largest gradient fills the optimizer's second moments. A mapping starts from weights
            tuned by hand, rescaled to add up to K.

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        TypeError: If ``restoring_force`` or ``lr`` is not a number.
        ValueError: If one of them is out of its range, or ``initial`` is not a known choice or misses a term. In
            training, if a loss is negative; :class:`PositiveWeighting` says when.

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
    allowed = "0 or more"
    weight: Tensor
    first_loss: Tensor
    steps: Tensor
    latest: Tensor

    def __init__(
        self,
        terms: Iterable[str],
        restoring_force: float = 0.12,
        lr: float = 0.025,
        initial: str | Mapping[str, float] = "balanced",
    ) -> None:
        super().__init__(terms)
        self.restoring_force = check_not_negative("restoring_force", restoring_force)
        self.lr = check_positive("lr", lr)
        self.initial = _check_initial(initial, self.terms)
        self.register_buffer("weight", torch.tensor(_start(self.initial, self.terms)))  # w; 0 until a norm is known
        self.register_buffer("first_loss", torch.ones(len(self.terms)))  # L(0)
        self.register_buffer("steps", start_first(len(self.terms)))  # how often each term was seen
        norms = torch.full((len(self.terms),), torch.inf if self.initial == "balanced" else 0.0)
        self.register_buffer("latest", torch.stack([torch.zeros(len(self.terms)), norms]))  # L, n

    def observe(self, observation: Observation) -> None:
        """Takes one step on the weights of the terms that were seen."""
        self.record_lowest(observation.losses)
        moves = torch.copysign(observation.norms, observation.losses) > 0  # seen, and not negative
        latest = torch.where(moves, observation.losses, self.first_loss).clamp(min=TINY)
        average_first(self.first_loss, self.steps, latest, moves)
        set_where(self.latest, moves, torch.stack([latest, observation.norms]))
        gradient, sign, mean = self._compare(*self.latest)
        step = torch.addcmul(self._zeros, gradient, sign, value=-self.lr)
        if self.lr * len(self.terms) > 1:  # no G is above K
            step = step.clamp(-1, 1)
        start = mean / self.latest[1] if self.initial == "balanced" else self.latest[1].sign()
        weight = torch.where(self.weight > 0, self.weight * step.exp(), start).where(moves, self.weight)
        torch.div(weight, weight.mean().clamp(min=TINY), out=self.weight)

    def slope(self, losses: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the derivative of the sum of ``|G - target|`` by each weight, and the mean of G.

        Args:
            losses: The losses ``[terms]``.
            norms: The norms of their gradients ``[terms]``.

        Returns:
            The derivative ``[terms]`` and the mean ``[1]``.
        """
        _, sign, mean = self._compare(losses, norms)
        return norms * sign, mean

    def _compare(self, losses: Tensor, norms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns G over its mean, the sign of its distance from the target ``[terms]``, and the mean ``[1]``.

        Of a term that was never seen G is 0 or nan.
        """
        gradient = self.weight * norms  # G
        known = gradient > 0 if isinstance(self.initial, dict) else self.weight > 0
        rows = torch.stack([gradient, losses / self.first_loss, known])  # G, L / L(0)
        sums = rows.nansum(dim=1, keepdim=True)
        mean = (sums[:2] / sums[2]).nan_to_num(1.0)
        gradient, rate = rows[:2] / mean  # G over its mean, r
        distance = hardshrink(gradient - rate**self.restoring_force, _ROUNDING)
        return gradient, distance.sign(), mean[0]

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs each loss by its current weight; by 1 as long as that is unknown."""
        return weighted_sum(losses, threshold(self.weight, 0.0, 1.0), present)

    def refused(self) -> Tensor:
        """A loss of zero is allowed: it has come down as far as it can."""
        return self.lowest < 0


def _check_initial(initial: str | Mapping[str, float], terms: tuple[str, ...]) -> str | dict[str, float]:
    if not isinstance(initial, Mapping):
        return check_choice("initial", initial, ["balanced", "equal"])
    by_term = expand(initial, terms)
    check_names("initial", by_term, terms)
    return {term: check_positive(f"initial[{term!r}]", by_term[term]) for term in terms}


def _start(initial: str | dict[str, float], terms: tuple[str, ...]) -> list[float]:
    if isinstance(initial, str):
        return [0.0] * len(terms)
    scale = len(terms) / sum(initial.values())
    return [initial[term] * scale for term in terms]
