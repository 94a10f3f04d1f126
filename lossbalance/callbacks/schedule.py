"""Schedule of a number: linear, cosine, in steps, cyclical or exponential, over epochs or optimizer steps."""

import math
import re
from collections.abc import Callable
from typing import Literal, Protocol

from pytorch_lightning import Trainer

from lossbalance._utils.checks import check_choice, check_integer, check_not_negative

Shape = Literal["constant", "linear", "cosine", "steps", "cyclical", "exponential"]
UNITS = ("epochs", "steps")
RAMPS: dict[str, Callable[[float], float]] = {  # f on [0, 1)
    "constant": lambda x: 0.0,
    "linear": lambda x: x,
    "cosine": lambda x: (1 - math.cos(math.pi * x)) / 2,
}


class TimeFunction(Protocol):
    """The interface of a schedule that callbacks use: a number as a function of time."""

    @property
    def unit(self) -> str:
        """The unit of time: ``"epochs"``, or ``"steps"`` of the optimizer."""

    def value(self, time: float) -> float:
        """Returns the number at a time."""


def now(function: TimeFunction, trainer: Trainer) -> float:
    """Returns the number at the trainer's time."""
    return function.value(trainer.current_epoch if function.unit == "epochs" else trainer.global_step)


class Schedule:
    r"""Moves a number from ``start`` to ``end``, and leaves it there.

    With :math:`x = t / \text{over}`, and f(x) below as long as x < 1,

    .. math:: v(t) = v_0 + f(x) \, (v_1 - v_0).

    ===============  ==============================================================================================
    ``constant``     0, always: the number stays at ``start``
    ``linear``       x
    ``cosine``       :math:`\tfrac12 (1 - \cos \pi x)`, level at both ends
    ``steps``        ``count`` equal jumps: :math:`\lfloor c x \rfloor / c`
    ``cyclical``     ``count`` times from 0 to 1 in the first half of a cycle and at 1 in the second (Fu et al. 2019)
    ``exponential``  :math:`v(t) = v_0 (v_1 / v_0)^x`
    ===============  ==============================================================================================

    It depends on the time alone, so a resumed run continues exactly.

    Args:
        start: The number at first.
        end: The number from ``over`` on; None for ``start``.
        over: How long it takes: ``"10 epochs"``, or ``"1000 steps"`` of the optimizer.
        shape: A word of the table.
        count: How many steps or cycles there are.

    Raises:
        TypeError: If a number is not one.
        ValueError: If a number is negative, ``over`` not a positive number and a unit, ``shape`` unknown, or an end of
            ``"exponential"`` 0.

    Source:
        Fu et al. (2019), "Cyclical Annealing Schedule", https://arxiv.org/abs/1903.10145

    Example:
        >>> schedule = Schedule(start=0.0, end=1.0, over="10 epochs")
        >>> [schedule.value(epoch) for epoch in (0, 5, 10, 20)]
        [0.0, 0.5, 1.0, 1.0]
    """

    def __init__(
        self, start: float, end: float | None = None, over: str = "1 epochs", shape: Shape = "linear", count: int = 4
    ) -> None:
        self.start = check_not_negative("start", start)
        self.end = self.start if end is None else check_not_negative("end", end)
        self.shape = check_choice("shape", shape, [*RAMPS, "steps", "cyclical", "exponential"])
        self.count = check_integer("count", count, 1)
        self.over, (self.duration, self.unit) = over, _read_duration(over)
        if shape == "exponential" and self.start * self.end == 0:
            raise ValueError(f"`start` and `end` must be above 0 for 'exponential', got {start} and {end}.")

    def value(self, time: float) -> float:
        """Returns the number at a time, in the schedule's unit."""
        x = time / self.duration
        if self.shape == "constant" or x <= 0:
            return self.start
        if x >= 1:
            return self.end
        if self.shape == "exponential":
            return self.start * (self.end / self.start) ** x
        return self.start + self._ramp(x) * (self.end - self.start)

    def _ramp(self, x: float) -> float:
        cycle = x * self.count
        if self.shape == "steps":
            return math.floor(cycle) / self.count
        if self.shape == "cyclical":
            return min(2 * (cycle - math.floor(cycle)), 1.0)
        return RAMPS[self.shape](x)

    def __repr__(self) -> str:
        count = f", count={self.count}" if self.shape in ("steps", "cyclical") else ""
        return f"Schedule(start={self.start:g}, end={self.end:g}, over={self.over!r}, shape={self.shape!r}{count})"


def _read_duration(over: object) -> tuple[float, str]:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e\d+)?)\s*(epoch|step)s?\s*", over) if isinstance(over, str) else None
    if match is None or not float(match[1]) > 0:
        raise ValueError(f"`over` must be a positive number and a unit, '10 epochs' or '1000 steps', got {over!r}.")
    return float(match[1]), f"{match[2]}s"
