"""Schedule of alpha: piecewise linear, cosine or in steps, over epochs or optimizer steps."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from pytorch_lightning import LightningModule, Trainer

from lossbalance._utils.checks import check_choice, check_number
from lossbalance.callbacks.find_criterion import find_criterion
from lossbalance.callbacks.schedule import RAMPS, UNITS, TimeFunction
from lossbalance.callbacks.weight_schedule import WeightSchedule

_SHAPES = RAMPS | {"steps": RAMPS["constant"]}  # between two points; "steps" jumps at the next one


class AlphaSchedule(WeightSchedule):
    r"""Moves the alpha of an :class:`Alpha` scheme along points in time.

    From one point :math:`(t_0, \alpha_0)` to the next :math:`(t_1, \alpha_1)`, with
    :math:`x = (t - t_0) / (t_1 - t_0)`,

    .. math:: \alpha(t) = \alpha_0 + f(x) \, (\alpha_1 - \alpha_0),

    where f(x) is x for ``"linear"``, :math:`\tfrac12 (1 - \cos \pi x)` for ``"cosine"``, and 0 for ``"steps"``. Before
    the first point and after the last, alpha is theirs. It depends on the time alone: a resumed run continues exactly.

    Args:
        points: Alpha in [0, 1] by time, ``{0: 0.0, 10: 0.5}`` or ``[[0, 0.0], [10, 0.5]]``; for ``"constant"``, a
            single number.
        shape: ``"constant"``, ``"linear"``, ``"cosine"`` or ``"steps"``: how alpha gets from point to point.
        unit: What counts the time, from 0: ``"epochs"``, or ``"steps"`` of the optimizer.

    Raises:
        TypeError: If a time or an alpha is not a number.
        ValueError: If a time is negative, an alpha not in [0, 1], ``points`` empty or more than ``"constant"`` takes,
            or ``shape`` or ``unit`` not a known word; when training starts, if the scheme is not an ``Alpha``.

    Example:
        >>> schedule = AlphaSchedule({0: 0.0, 10: 0.5}, shape="linear", unit="epochs")
        >>> [schedule.alpha(epoch) for epoch in (0, 4, 10, 20)]
        [0.0, 0.2, 0.5, 0.5]
    """

    def __init__(
        self,
        points: Mapping[float, float] | Mapping[int, float] | Iterable[tuple[float, float]] | float,
        shape: Literal["constant", "linear", "cosine", "steps"] = "linear",
        unit: Literal["epochs", "steps"] = "epochs",
    ) -> None:
        self.shape, self.unit = check_choice("shape", shape, _SHAPES), check_choice("unit", unit, UNITS)
        given = dict(points) if isinstance(points, Iterable) else {0: points}
        if not given or (shape == "constant" and len(given) > 1):
            raise ValueError(f"`points` must be one number for 'constant', else {{time: alpha, ...}}, got {points}.")
        self.points = sorted(map(_check_point, given, given.values()))

    def value(self, time: float) -> float:
        """Returns alpha at a time, in the schedule's unit."""
        following = bisect_right(self.points, time, key=lambda point: point[0])
        if following in (0, len(self.points)):
            return self.points[max(following - 1, 0)][1]
        (t0, alpha0), (t1, alpha1) = self.points[following - 1 : following + 1]
        return alpha0 + _SHAPES[self.shape]((time - t0) / (t1 - t0)) * (alpha1 - alpha0)

    alpha = value

    def _pairs(self, trainer: Trainer, module: LightningModule) -> list[tuple[TimeFunction, Callable[[float], None]]]:
        scheme = find_criterion(trainer, module, type(self).__name__).weighting
        set_alpha = getattr(scheme, "set_alpha", None)
        if set_alpha is None:
            raise ValueError(f"`AlphaSchedule` needs the scheme to be Alpha, got {type(scheme).__name__}.")
        return [(self, set_alpha)]


def _check_point(time: object, alpha: object) -> tuple[float, float]:
    return (
        check_number("points", time, "at times of 0 or later", lambda number: 0 <= number < math.inf),
        check_number(f"points[{time}]", alpha, "an alpha in [0, 1]", lambda number: 0 <= number <= 1),
    )
