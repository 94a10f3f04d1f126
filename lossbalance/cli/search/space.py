"""Search space, in Hydra's syntax of sweeps."""

import math
from collections.abc import Sequence
from typing import Any

import optuna
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep

from lossbalance.cli.search.arguments import DEFAULT_SPACE
from lossbalance.sweeps.runs import show


def parse(overrides: Sequence[str]) -> tuple[list[str], list[Override]]:
    """Splits the overrides into fixed ones and the search space."""
    hydra = GlobalHydra.instance()
    parser = OverridesParser.create(hydra.config_loader() if hydra.is_initialized() else None)
    parsed = parser.parse_overrides(list(overrides))
    fixed = [str(override.input_line) for override in parsed if not override.is_sweep_override()]
    space = [override for override in parsed if override.is_sweep_override()]
    space = space or [each for each in parser.parse_overrides(list(DEFAULT_SPACE)) if _is_open(each, fixed)]
    return fixed, sorted(space, key=lambda override: _depends(override.get_key_element()))


def _is_open(override: Override, fixed: Sequence[str]) -> bool:
    """Whether a part of the default space is not fixed, and has an effect with what is."""
    given = dict(each.lstrip("+").split("=", 1) for each in fixed if "=" in each)
    key = override.get_key_element()
    if key == "alpha" and given.get("loss", "alpha") != "alpha":
        return False
    return key not in given and not (key.startswith("penalty.") and given.get("penalty") == "none")


def _depends(key: str) -> bool:
    """Whether the choice of another key may leave this one without effect."""
    return key == "alpha" or "." in key


def check_space(fixed: Sequence[str], space: Sequence[Override]) -> None:
    """Composes the configuration with every choice of the space, and the ends of its intervals, before the first trial.

    Raises:
        ValueError: If there is nothing to choose from, or a setting has no effect in a search.
        hydra.errors.HydraException: If a choice does not exist; or another of Hydra's and OmegaConf's errors.
    """
    for each in fixed:
        key = each.lstrip("+~").partition("=")[0]
        if key.startswith("hydra") or key in ("output_dir", "resume", "ckpt_path"):
            raise ValueError(f"`{key}` must be left out of a search, got {each!r}: --study names its folder.")
    compose("train", list(fixed))
    for override in space:
        key, values = override.get_key_element(), choices(override)
        shown = values if any(isinstance(value, str) for value in values) else [values[0], values[-1]]
        groups = [other for other in space if key.startswith(f"{other.get_key_element()}.")]
        groups_of_key = [f"{other.get_key_element()}={value}" for other in groups for value in choices(other)]
        for value in shown:
            _compose_any(
                [*fixed, f"{key}={show(value)}"], [choice for choice in groups_of_key if "=none" not in choice]
            )


def choices(override: Override) -> list[Any]:
    """Returns the choices of a trial; of an interval its ends.

    Raises:
        ValueError: If there are none, or the ends are not in ascending order.
    """
    key, sweep = override.get_key_element(), override.value()
    given = typed(override)
    if isinstance(sweep, IntervalSweep):
        _check_interval(key, sweep, given)
        return [sweep.start, sweep.end]
    if isinstance(sweep, ChoiceSweep):
        values = [value if isinstance(value, int | float) else str(value) for value in sweep.list]
    elif isinstance(sweep, RangeSweep):
        values = [float(f"{value:.10g}") for value in sweep.range()]
    elif isinstance(sweep, Glob):
        values = list(override.sweep_string_iterator())
    else:
        raise ValueError(f"`{key}` must be a list, a range or an interval to be searched, got {given}.")
    if not values:
        raise ValueError(f"`{key}` must have at least one value to choose from, got {given}, which has none.")
    return values


def typed(override: Override) -> str:
    """Returns the value as typed, without spaces."""
    return str(override.input_line).partition("=")[2].replace(" ", "")


def suggest(trial: optuna.Trial, space: Sequence[Override]) -> list[str]:
    """Returns the overrides that the trial suggests, without those that have no effect."""
    chosen: dict[str, Any] = {}
    for override in space:
        key = override.get_key_element()
        idle = key == "alpha" and chosen.get("loss", "alpha") != "alpha"  # only used by that scheme
        if not idle and chosen.get(key.partition(".")[0]) != "none":
            chosen[key] = _value(trial, key, override)
    return [f"{key}={show(value)}" for key, value in chosen.items()]


def _value(trial: optuna.Trial, key: str, override: Override) -> Any:
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        low, high = choices(override)
        return float(f"{trial.suggest_float(key, low, high, log='log' in sweep.tags):.4g}")
    return trial.suggest_categorical(key, choices(override))


def _check_interval(key: str, sweep: IntervalSweep, given: str) -> None:
    if sweep.start is None or sweep.end is None or not -math.inf < sweep.start < sweep.end < math.inf:
        raise ValueError(f"`{key}` must be an interval from a smaller number to a larger, finite one, got {given}.")
    if "log" in sweep.tags and sweep.start <= 0:
        raise ValueError(f"`{key}` must be an interval above 0 to be searched on a logarithmic scale, got {given}.")


def _compose_any(overrides: Sequence[str], groups: Sequence[str]) -> None:
    """Composes with at least one of the choices of the key's group, where that is searched too."""
    for number, group in enumerate([[choice] for choice in groups] or [[]], start=1):
        try:
            compose("train", [*group, *overrides])
            return
        except Exception:
            if number >= len(groups):
                raise
