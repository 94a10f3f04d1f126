"""Structure of a table with several targets."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["number", "yes_no", "class"]


@dataclass(frozen=True)
class Target:
    """A target to predict.

    Args:
        name: Its name.
        kind: ``"number"``, in its raw unit; ``"yes_no"``, 1 or 0; or ``"class"``, from 0 on.
        values: ``[rows, columns]``, with more than one column for numbers only; nan where a label is missing.
    """

    name: str
    kind: Kind
    values: np.ndarray

    @property
    def outputs(self) -> int:
        """How many outputs of a network predict it."""
        return int(np.nanmax(self.values)) + 1 if self.kind == "class" else self.values.shape[1]


@dataclass(frozen=True)
class Table:
    """Inputs and targets of a table.

    Args:
        inputs: ``[rows, features]``.
        targets: The targets, each with values for all rows.
    """

    inputs: np.ndarray
    targets: tuple[Target, ...]


def make_number(name: str, values: np.ndarray) -> Target:
    """Makes a target of one column of numbers."""
    return Target(name, "number", np.asarray(values, float)[:, None])


def make_class(name: str, labels: np.ndarray) -> Target:
    """Makes a target of one column of labels, from 0 on."""
    return Target(name, "class", np.asarray(labels, float)[:, None])
