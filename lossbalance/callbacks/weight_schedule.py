"""Schedules of the factors of terms and penalties, on top of any scheme."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pytorch_lightning import LightningModule, Trainer

from lossbalance._utils.checks import check_choice
from lossbalance.callbacks.find_criterion import find_criteria
from lossbalance.callbacks.lightning_callback import LightningCallback
from lossbalance.callbacks.schedule import Schedule, TimeFunction, now


class WeightSchedule(LightningCallback):
    """Schedules the factor that multiplies the weight of a term, or the strength of a penalty, on top of any scheme.

    ::

        WeightSchedule({"kl": Schedule(start=0.0, end=1.0, over="10 epochs")})

    The same by hand is :meth:`WeightedLoss.set_factor`.

    Args:
        schedules: A schedule for each term or penalty that has one, by name; in a module with several criteria, after
            the name of its own, ``"generator_loss/kl"``.

    Raises:
        TypeError: If ``schedules`` is not a mapping to schedules.
        ValueError: If there is none; when training starts, if there is no criterion, or a name is unknown.
    """

    def __init__(self, schedules: Mapping[str, Schedule]) -> None:
        if not isinstance(schedules, Mapping) or not all(isinstance(each, Schedule) for each in schedules.values()):
            example = 'WeightSchedule({"kl": Schedule(0.0, 1.0, over="10 epochs")})'
            raise TypeError(f"`schedules` must map terms to schedules, got {schedules!r}: write {example}.")
        if not schedules:
            raise ValueError("`schedules` must have at least one schedule, got none.")
        self.schedules = dict(schedules)
        self._setters: list[_Setter] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resolves the names of the schedules to factors of criteria."""
        self._setters = [_Setter(*pair) for pair in self._pairs(trainer, pl_module)]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Sets each factor to its value at this step."""
        for set_value in self._setters:
            set_value(trainer)

    def _pairs(self, trainer: Trainer, module: LightningModule) -> list[tuple[TimeFunction, Callable[[float], None]]]:
        """Returns each schedule with the function that sets its number."""
        setters = {
            f"{prefix}{name}": partial(criterion.set_factor, name)
            for prefix, criterion in find_criteria(trainer, module, type(self).__name__).items()
            for name in criterion.factors
        }
        return [(each, setters[check_choice("schedules", name, setters)]) for name, each in self.schedules.items()]


class _Setter:
    """Sets a number to its value now, if that has changed."""

    def __init__(self, function: TimeFunction, setter: Callable[[float], None]) -> None:
        self.function, self.setter = function, setter
        self._value: float | None = None

    def __call__(self, trainer: Trainer) -> None:
        value = now(self.function, trainer)
        if value != self._value:
            self.setter(value)
            self._value = value
