"""Cases: the main target of a table, and three auxiliary targets that are related, unrelated or harmful."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from studies.one_run.tables import read_table
from studies.one_run.tables.table import Table, Target, make_number

RELATED, UNRELATED, HARMFUL = "related", "unrelated", "harmful"
KINDS = (RELATED, UNRELATED, HARMFUL)
TABLES = {
    "digits": ("digit", ("lower_half 0", "lower_half 1", "lower_half 2")),
    "diabetes": ("progression", ("s3", "s4", "s5")),
    "nuclei": ("diagnosis", ("worst radius", "worst texture", "worst perimeter")),
    "leaves": ("species", ("diameter", "area", "perimeter")),
    "body": ("wgt", ("hgt", "age", "sex")),
}
"""The main target of each table, and the related ones."""
_LARGE = 10.0  # factor of a target whose loss and gradients dominate
_TEST, _VALIDATION = 1000, 500  # rows at most
_EXTREME = 8.0  # standard deviations, at which inputs are clipped


class Case(NamedTuple):
    """A main target with its auxiliary ones, as tensors, and the rows of each part."""

    targets: list[Target]
    """The main target and three auxiliary ones; numbers standardized by the training rows."""
    inputs: Tensor
    """``[rows, features]``, standardized by the training rows."""
    labels: Tensor
    """``[rows, columns]``."""
    training: Tensor
    validation: Tensor
    test: Tensor


def make_case(name: str, kind: str, rows: int, seed: int) -> Case:
    """Draws a case.

    Args:
        name: One of :data:`TABLES`.
        kind: One of :data:`KINDS`.
        rows: Training rows; at most three fifths of those of the table.
        seed: Of the split, and of labels that are drawn.
    """
    table = read_table(name, None)
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(table.inputs))
    first = len(order) * 3 // 5
    training, validation = order[:first][:rows], order[first:][: len(order) // 5][:_VALIDATION]
    test = order[first + len(order) // 5 :][:_TEST]
    inputs = np.clip(_standardize(table.inputs, training), -_EXTREME, _EXTREME)
    main, auxiliary = _choose_targets(name, table)
    chosen = [main, *_make_auxiliary(kind, main, auxiliary, inputs, generator)]
    targets = [_scale(target, training, _LARGE if target.name == "large" else 1.0) for target in chosen]
    labels = np.concatenate([target.values for target in targets], axis=1)
    parts = [torch.from_numpy(part) for part in (training, validation, test)]
    return Case(targets, torch.as_tensor(inputs).float(), torch.as_tensor(labels).float(), *parts)


def _choose_targets(name: str, table: Table) -> tuple[Target, list[Target]]:
    """Returns the main target and the related ones; a target of many columns is split in three."""
    main, related = TABLES[name]
    targets = {target.name: target for target in table.targets}
    for target in table.targets:
        if target.kind == "number" and target.values.shape[1] >= len(related):
            for index, columns in enumerate(np.array_split(target.values, len(related), axis=1)):
                targets[f"{target.name} {index}"] = Target(f"{target.name} {index}", "number", columns)
    return targets[main], [targets[each] for each in related]


def _make_auxiliary(
    kind: str, main: Target, related: list[Target], inputs: np.ndarray, generator: np.random.Generator
) -> list[Target]:
    """Returns three auxiliary targets: the related ones, functions of the inputs, or harmful ones."""
    if kind == RELATED:
        return related
    if kind == UNRELATED:
        return [make_number(f"unrelated {index}", _draw_function(inputs, generator)) for index in range(3)]
    shuffled = [_shuffle(target, generator) for target in (main, related[0])]
    return [*shuffled, make_number("large", _draw_function(inputs, generator))]


def _shuffle(target: Target, generator: np.random.Generator) -> Target:
    return Target(f"shuffled {target.name}", target.kind, generator.permutation(target.values))


def _draw_function(inputs: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns the output ``[rows]`` of a random network with 16 hidden units."""
    hidden = np.tanh(inputs @ generator.normal(size=(inputs.shape[1], 16)) * 2 / np.sqrt(inputs.shape[1]))
    return hidden @ generator.normal(size=16)


def _scale(target: Target, training: np.ndarray, factor: float) -> Target:
    """Standardizes numbers, and divides them so that the variances of the columns have the sum 1."""
    if target.kind != "number":
        return target
    values = factor * _standardize(target.values, training) / np.sqrt(target.values.shape[1])
    return Target(target.name, target.kind, values)


def _standardize(values: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Centres and scales columns by their training rows; constant ones are only centred."""
    mean, deviation = np.nanmean(values[training], axis=0), np.nanstd(values[training], axis=0)
    return (values - mean) / np.where(deviation > 1e-9, deviation, 1.0)
