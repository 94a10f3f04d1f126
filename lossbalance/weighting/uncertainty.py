"""Uncertainty weighting (homoscedastic uncertainty): one learned noise variance per loss."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from lossbalance._utils.checks import check_names, check_number, check_positive, did_you_mean
from lossbalance._utils.terms import expand
from lossbalance._utils.transforms import is_transforming
from lossbalance._utils.warn import warn_user
from lossbalance.weighting.averages import FIRST, TINY, average_first, start_first
from lossbalance.weighting.base import Observation
from lossbalance.weighting.positive import PositiveWeighting

_LIKELIHOODS = {"gaussian": (0.5, 0.5), "laplace": (1.0, 1.0), "classification": (1.0, 0.5)}  # a, c
_BOUND = 40.0  # of |s|: weights from 4e-18 to 2e17


class Uncertainty(PositiveWeighting):
    r"""Divides each loss by a noise variance that it learns.

    With one log-variance :math:`s_i` per term, the total is the negative log-likelihood

    .. math:: T = \sum_i a_i e^{-s_i} L_i + c_i s_i.

    The first half trusts a noisy term less; the second keeps :math:`s_i` from growing.

    ==================  =====================  ===  ===  ================  =============================
    ``likelihood``      a term such as         a    c    :math:`s` is      at the optimum of :math:`s`
    ==================  =====================  ===  ===  ================  =============================
    ``gaussian``        mean squared error     1/2  1/2  the log-variance  :math:`s = \ln L,\ w = 1/(2L)`
    ``laplace``         mean absolute error    1    1    the log of b      :math:`s = \ln L,\ w = 1/L`
    ``classification``  cross-entropy          1    1/2  the log-variance  :math:`s = \ln 2L,\ w = 1/(2L)`
    ==================  =====================  ===  ===  ================  =============================

    So at the optimum T is, up to a constant, the sum of the logarithms of the errors: of the root mean squared error,
    of the mean absolute error, of the root of the cross-entropy. A logarithm is negative below 1, and so may the total
    be; judge a run by its plain losses. ``regularizer="log1p"`` puts :math:`\ln(1 + e^{s_i})` in place of
    :math:`c_i s_i`, which is never negative and weighs a small loss by about :math:`1/\sqrt{2L}` only.

    The :math:`s_i` are parameters: give them to the optimizer, without weight decay, which would pull every weight
    towards ``a``; ``WeightedLoss.parameter_groups`` does. A term that is absent, and a step that is not finite, moves
    none of them. They are kept within 40 of 0, so a loss that stays at 0 gets a weight of 2e17 at the most, and a
    warning.

    **The start.** Where a term starts at ``"auto"``, its :math:`s` stands at the optimum for the mean of its losses so
    far until five have been seen, and is trained from the sixth on. The first loss alone is noisy: from it, terms of
    equal variance started 55 times apart.

    **Where it fails.** The :math:`s_i` move by the learning rate in a step. Where a loss falls far below its first
    values, because its target is far from 0, they lag thousands of steps behind: centre the target, or give ``lr``.
    And a class that is learned at once gets ever more weight beside a number in hundreds. On sixteen tables one run
    ended 8.8 % above the best fixed weights of a sweep on average, 106 % at worst; with ``regularizer="log1p"`` 1.5 %
    below, at worst 13 % above (``scripts/study.py one_run --variants``).

    Args:
        terms: Names of the losses, in the order of the row.
        likelihood: A likelihood of the table, or one for each term by name.
        regularizer: ``"log"`` or ``"log1p"``.
        initial_log_variance: :math:`s_i` before training, for all terms or by name: a number in [-40, 40], the log of
            a variance in the unit of the loss; or ``"auto"``, the optimum for the mean of the first five losses that
            are seen of the term, averaged over ranks. Before the first, ``"auto"`` stands at 0.
        lr: Learning rate of the :math:`s_i`, for ``WeightedLoss.parameter_groups``; None is the optimizer's own.

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        TypeError: If ``initial_log_variance`` is neither a string nor a number.
        ValueError: If it is out of range, or a choice is unknown. In training, if a loss is negative, or if it is zero
            when ``"auto"`` needs its logarithm; :class:`PositiveWeighting` says when.

    Source:
        Kendall, Gal and Cipolla (2018), https://arxiv.org/abs/1705.07115, equations 7 and 10; the Laplace
        likelihood :math:`-\ln p = |y - f| / b + \ln 2b` follows in the same way; ``log1p`` is due to
        Liebel and Körner (2018), https://arxiv.org/abs/1805.06334.

    Example:
        >>> total, weights = Uncertainty(["data", "physics"], initial_log_variance=0.0)(torch.tensor([2.0, 4.0]))
        >>> total.item(), weights.tolist()
        (3.0, [0.5, 0.5])
    """

    first_loss: Tensor
    steps: Tensor
    shift: Tensor
    _factors: Tensor
    _offset: Tensor | None

    def __init__(
        self,
        terms: Iterable[str],
        likelihood: str | Mapping[str, str] = "gaussian",
        regularizer: str = "log",
        initial_log_variance: float | str | Mapping[str, float | str] = "auto",
        lr: float | None = None,
    ) -> None:
        super().__init__(terms)
        self.lr = self.learning_rate = None if lr is None else check_positive("lr", lr)
        self.likelihood, self.initial_log_variance = likelihood, initial_log_variance
        likelihoods = _per_term("likelihood", likelihood, self.terms)
        factors = [_LIKELIHOODS[_check_choice(name, choice, _LIKELIHOODS)] for name, choice in likelihoods]
        self.regularizer = _check_choice("regularizer", regularizer, ["log", "log1p"])
        starts = [_check_start(*start) for start in _per_term("initial_log_variance", initial_log_variance, self.terms)]
        self.log_variance = nn.Parameter(torch.tensor([start or 0.0 for start in starts]))
        self.register_buffer("_factors", torch.tensor(factors).T.contiguous(), persistent=False)  # a, c
        a, c = self._factors
        no_offset = all(a == c for a, c in factors)
        self.register_buffer("_offset", None if no_offset else (a / c).log(), persistent=False)
        self.register_buffer("first_loss", (c if self.regularizer == "log" else 0.5) / a)  # optimum: s = 0
        steps = [start_first(1, 0 if start is None else FIRST + 1) for start in starts]
        self.register_buffer("steps", torch.cat(steps))  # how often each was seen; more than five where it has started
        self.register_buffer("shift", torch.zeros(len(self.terms)))  # s minus the parameter
        self._is_shifted = False

    @property
    def _a(self) -> Tensor:
        return self._factors[0]

    @property
    def started(self) -> Tensor:
        """Whether each log-variance has its start and is trained from now on, ``[terms]``."""
        return self.steps >= FIRST

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs each loss by its precision, and charges for its log-variance."""
        s = self.read()
        if not self.training:
            s = s.clamp(-_BOUND, _BOUND)
        a, c = self._factors * present
        weights = (a / s.exp()).to(losses.dtype)  # a e^-s
        if self.regularizer == "log":
            charge, slope = s, c  # c s
        else:
            charge, slope = softplus(s) / torch.sigmoid(s), torch.sigmoid(s) * present  # ln(1 + e^s)
        if is_transforming():  # which knows no function with a backward pass of its own
            return torch.addcmul(weights * losses, slope, charge).sum(), weights
        curve = None if self.regularizer == "log" else s
        return _Total.apply(losses, self.log_variance, weights, charge, slope, self.steps, self._zeros, curve), weights

    def read(self) -> Tensor:
        """Returns the log-variances ``[terms]``, detached."""
        s = self.log_variance.detach()
        return s + self.shift if self._is_shifted else s

    def observe(self, observation: Observation) -> None:
        """Starts each log-variance by its first losses, and keeps all within bounds."""
        latest = torch.where(observation.seen, observation.losses, self.first_loss)
        starts = average_first(self.first_loss, self.steps, latest.clamp(min=TINY), observation.seen)
        s = torch.where(starts, self._optimum(self.first_loss), self.read())
        if self.ranks.size == 1 and not self._is_shifted:
            torch.clamp(s, -_BOUND, _BOUND, out=self.log_variance)
        else:
            self._move_shift(s, starts)
        self.record_lowest(latest)

    def _move_shift(self, s: Tensor, starts: Tensor) -> None:
        """Moves the shift in place of the parameter, which under ``fully_shard`` is a copy that does not last."""
        self._is_shifted = True
        bounded = s.clamp(-_BOUND, _BOUND)
        torch.where(starts | (bounded != s), bounded - self.log_variance, self.shift, out=self.shift)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}log_variance" in state_dict:  # an earlier version has no shift
            state_dict.setdefault(f"{prefix}shift", torch.zeros(len(self.terms)))
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._is_shifted = not self.shift.is_meta and bool(self.shift.any())

    def refused(self) -> Tensor:
        """A loss of zero is refused only where all before it were zero, too: it has no logarithm."""
        return (self.lowest < 0) | ((self.lowest == 0) & (self.first_loss < 2 * TINY))

    def check(self) -> None:
        """Checks the losses seen so far, and warns of weights at their bound; synchronizes with the device.

        Raises:
            ValueError: If a loss was negative, or zero where its logarithm was needed; the message names the term.
        """
        super().check()
        if hasattr(self.log_variance, "full_tensor"):  # in parts
            return
        at_bound = ((self.read() <= -_BOUND) & (self.lowest < math.exp(-_BOUND))).tolist()
        stuck = [term for term, is_stuck in zip(self.terms, at_bound, strict=True) if is_stuck]
        if stuck:
            warn_user(
                f"The loss of {stuck} stays at 0, which has driven its weight to the bound of about 1e17: leave such a "
                "term out (None) where it is 0, or weigh it by Fixed.",
            )

    def _optimum(self, losses: Tensor) -> Tensor:
        """Returns the log-variances at which dT/ds = 0."""
        if self.regularizer == "log":
            return losses.log() if self._offset is None else losses.log() + self._offset  # a L e^-s = c
        x = self._a * losses
        return x.log() / 2 + (x.sqrt() / 2).asinh()  # x e^-s = e^s / (1 + e^s), a quadratic in e^s


class _Total(torch.autograd.Function):
    """The sum of weighted losses and charges, with the gradients that are known in closed form."""

    @staticmethod
    def forward(
        ctx: Any,
        losses: Tensor,
        s: Tensor,
        weights: Tensor,
        charge: Tensor,
        slope: Tensor,
        steps: Tensor,
        zeros: Tensor,
        curve: Tensor | None,
    ) -> Tensor:
        weighted = weights * losses
        total = torch.addcmul(weighted, slope, charge).sum()
        trained = torch.sub(steps, total, alpha=0) > FIRST  # nan, and so False, if the total is not finite
        ctx.save_for_backward(weights, torch.where(trained, slope - weighted, zeros), losses)
        ctx.s, ctx.slope, ctx.trained, ctx.curve = s, slope, trained, curve
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        by_loss, by_s, losses = ctx.saved_tensors
        if torch.is_grad_enabled():  # the same as functions of losses and s, to be differentiated once more
            change = ctx.s - ctx.s.detach()  # 0
            by_loss = by_loss * (-change).exp()
            slope = ctx.slope if ctx.curve is None else ctx.slope / ctx.curve.sigmoid() * (ctx.curve + change).sigmoid()
            by_s = torch.where(ctx.trained, slope - by_loss * losses, 0.0)
            return by_loss * grad, by_s * grad, *(None,) * 6
        return *torch._foreach_mul([by_loss, by_s], grad), *(None,) * 6


def _per_term(argument: str, setting: object, terms: tuple[str, ...]) -> list[tuple[str, object]]:
    """Returns the name of each term's setting, for messages, and the setting."""
    if not isinstance(setting, Mapping):
        return [(argument, setting)] * len(terms)
    by_term = expand(setting, terms)
    check_names(argument, by_term, terms)
    return [(f"{argument}[{term!r}]", by_term[term]) for term in terms]


def _check_choice(argument: str, choice: object, known: Iterable[str]) -> str:
    if isinstance(choice, str) and choice in known:
        return choice
    raise ValueError(f"`{argument}` must be one of {list(known)}, got {choice!r}{did_you_mean(choice, known)}.")


def _check_start(argument: str, start: object) -> float | None:
    """Returns the number, or None for "auto"."""
    if isinstance(start, str):
        _check_choice(argument, start, ["auto"])
        return None
    kind = f"'auto' or a number in [-{_BOUND:g}, {_BOUND:g}]"
    return check_number(argument, start, kind, lambda number: abs(number) <= _BOUND, "it is the log of a variance")
