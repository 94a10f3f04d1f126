"""Selection of targets and features among the columns of a table."""

import logging
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from lossbalance._utils.checks import check_choice, check_terms, did_you_mean
from lossbalance.tasks.table.targets import Target
from lossbalance.tasks.table.values import as_numbers, is_text

log = logging.getLogger(__name__)

_NEARLY_ONE = 0.95  # correlation of a leak


def choose_targets(table: pd.DataFrame, targets: Iterable[str]) -> list[str]:
    """Returns the names of the targets, once all are columns of the table.

    Raises:
        TypeError: If they are not a list of names.
        ValueError: If there is none, one twice, or one is not a column.
    """
    return [check_choice("task.targets", name, table) for name in check_terms(targets, "task.targets")]


def choose_features(
    table: pd.DataFrame, targets: Iterable[str], features: Iterable[str] | None, ignore: Iterable[str] | None
) -> list[str]:
    """Returns the names of the features: all columns that are not targets, or those that are given.

    Raises:
        TypeError: If ``features`` or ``ignore`` is not a list of names.
        ValueError: If one is not a column, named twice, a target, or none is left.
    """
    ignored = {
        check_choice("task.ignore", name, table) for name in (check_terms(ignore, "task.ignore") if ignore else ())
    }
    if features is not None:
        chosen = [check_choice("task.features", name, table) for name in check_terms(features, "task.features")]
        both = [name for name in chosen if name in targets]
        if both:
            raise ValueError(f"`task.features` must not have targets among them, got {both}.")
    else:
        chosen = [name for name in table if name not in targets]
    remaining = [name for name in chosen if name not in ignored]
    if not remaining:
        raise ValueError(f"`task.features` must leave a column to predict from, got none of {list(table)}.")
    return remaining


def check_kinds(kinds: object) -> Mapping[str, str]:
    """Returns the kinds of the targets that are given, by name.

    Raises:
        TypeError: If they are not a mapping.
    """
    if kinds is not None and not isinstance(kinds, Mapping):
        raise TypeError(f"`task.kinds` must map targets to kinds, as in 'task.kinds={{price: number}}', got {kinds!r}.")
    return kinds or {}


def check_columns(table: pd.DataFrame, wanted: Iterable[str]) -> None:
    """Checks that a table has all columns of a checkpoint.

    Raises:
        ValueError: If one is missing; the message has the nearest names.
    """
    missing = [f"{name!r}{did_you_mean(name, table)}" for name in wanted if name not in table]
    if missing:
        raise ValueError(f"`task.path` must have the columns of the training, missing {', '.join(missing)}.")


def warn_of_leaks(features: pd.DataFrame, table: pd.DataFrame, targets: Iterable[Target]) -> None:
    """Warns of features that nearly determine a target, which may be unknown at prediction time."""
    for name in features:
        if is_text(features[name]):
            continue
        values = as_numbers(features[name])
        for target in targets:
            correlation = 0.0 if target.kind == "classes" else _correlation(values, target.labels(table[target.name]))
            if abs(correlation) > _NEARLY_ONE:
                log.warning(
                    "Feature %r nearly determines target %r (correlation %.2f). If it is not known at prediction time, "
                    "this is target leakage: exclude it with 'task.ignore=[%s]'.",
                    name, target.name, correlation, name,
                )  # fmt: skip


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    both = ~np.isnan(one) & ~np.isnan(other)
    one, other = one[both], other[both]
    if one.size < 2 or one.std() == 0 or other.std() == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])
