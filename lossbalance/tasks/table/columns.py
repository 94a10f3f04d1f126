"""Which columns of a table are targets, and which are features."""

import logging
from collections.abc import Iterable

import numpy as np
import pandas as pd

from lossbalance._utils.checks import check_terms, check_word
from lossbalance.tasks.table.features import as_numbers, is_words
from lossbalance.tasks.table.targets import Target

log = logging.getLogger(__name__)

_NEARLY_ONE = 0.95  # a correlation that gives a target away


def choose_targets(table: pd.DataFrame, targets: Iterable[str]) -> list[str]:
    """Returns the names of the targets, once all are columns of the table.

    Raises:
        TypeError: If they are not a list of names.
        ValueError: If there is none, one twice, or one is not a column.
    """
    return [check_word("task.targets", name, table) for name in check_terms(targets, "task.targets")]


def choose_features(
    table: pd.DataFrame, targets: Iterable[str], features: Iterable[str] | None, ignore: Iterable[str]
) -> list[str]:
    """Returns the names of the features: all columns that are not targets, or those that are given.

    Raises:
        ValueError: If one is not a column, is a target, or none is left.
    """
    ignored = {check_word("task.ignore", name, table) for name in ignore}
    if features is not None:
        chosen = [check_word("task.features", name, table) for name in features]
        both = [name for name in chosen if name in targets]
        if both:
            raise ValueError(f"`task.features` must not have targets among them, got {both}.")
    else:
        chosen = [name for name in table if name not in targets]
    left = [name for name in chosen if name not in ignored]
    if not left:
        raise ValueError(f"`task.features` must leave a column to predict from, got none of {list(table)}.")
    return left


def warn_of_leaks(features: pd.DataFrame, targets: Iterable[Target]) -> None:
    """Tells of features that say nearly all of a target: perhaps nobody will know them in time."""
    for name in features:
        if is_words(features[name]):
            continue
        values = as_numbers(features[name])
        for target in targets:
            if target.kind != "classes" and abs(_correlation(values, target.values)) > _NEARLY_ONE:
                log.warning(
                    "The feature %r says nearly all of the target %r (correlation %.2f): 'task.ignore=[%s]' leaves it "
                    "out, if nobody knows it in time.", name, target.name, _correlation(values, target.values), name,
                )  # fmt: skip


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    both = ~np.isnan(one) & ~np.isnan(other)
    one, other = one[both], other[both]
    if one.size < 2 or one.std() == 0 or other.std() == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])
