"""Tables with several targets: real ones that scikit-learn brings or a folder holds, and one that is made."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from sklearn import datasets

Kind = Literal["number", "yes_no", "class"]

_FILES = {"bike_sharing": "bike_sharing/hour.csv", "tox21": "tox21/ecfp4_1024.npz"}  # of what scikit-learn lacks


@dataclass(frozen=True)
class Target:
    """One thing to predict.

    Args:
        name: What it is called.
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
    """What is known of each row, and what is to be predicted.

    Args:
        inputs: ``[rows, features]``.
        targets: What to predict, each for all rows.
    """

    inputs: np.ndarray
    targets: tuple[Target, ...]


def is_there(name: str, folder: Path) -> bool:
    """Returns whether a table can be read."""
    return name not in _FILES or (folder / _FILES[name]).exists()


def read_table(name: str, folder: Path) -> Table:
    """Returns a table of :data:`TABLES`.

    Args:
        name: Its name.
        folder: Where tables that scikit-learn does not bring are.
    """
    return TABLES[name](folder)


def _read_diabetes(_: Path) -> Table:
    """Six blood values and the progress of the disease, from age, sex, body mass index and blood pressure."""
    data = datasets.load_diabetes(scaled=False)
    blood = [_number(name, data.data[:, i]) for i, name in enumerate(data.feature_names) if i >= 4]
    return Table(data.data[:, :4], (_number("progression", data.target), *blood))


def _read_digits(_: Path) -> Table:
    """The digit and the lower half of its picture, from the upper half."""
    pixels, digits = datasets.load_digits(return_X_y=True)
    return Table(pixels[:, :32], (_class("digit", digits), Target("lower_half", "number", pixels[:, 32:])))


def _read_iris(_: Path) -> Table:
    """The species and the size of the petals, from that of the sepals."""
    data = datasets.load_iris()
    petals = (_number(data.feature_names[i], data.data[:, i]) for i in (2, 3))
    return Table(data.data[:, :2], (_class("species", data.target), *petals))


def _read_wine(_: Path) -> Table:
    """The cultivar and the amount of proline, from the other ingredients."""
    values, cultivars = datasets.load_wine(return_X_y=True)
    return Table(values[:, :12], (_class("cultivar", cultivars), _number("proline", values[:, 12])))


def _read_tumour(_: Path) -> Table:
    """The diagnosis and the area of the largest nuclei, from means of what does not tell the size."""
    data = datasets.load_breast_cancer()
    shape = [1, 4, 5, 6, 7, 8, 9]
    return Table(data.data[:, shape], (_class("diagnosis", data.target), _number("worst area", data.data[:, 23])))


def _read_nuclei(_: Path) -> Table:
    """The diagnosis and the size of the largest nuclei in four units, from means and standard errors."""
    data = datasets.load_breast_cancer()
    sizes = (_number(data.feature_names[i], data.data[:, i]) for i in range(20, 24))
    return Table(data.data[:, :20], (_class("diagnosis", data.target), *sizes))


def _read_nuclei_missing(folder: Path) -> Table:
    """The same with half of the labels removed at random."""
    table = _read_nuclei(folder)
    generator = np.random.default_rng(0)
    kept = (np.where(generator.random(len(table.inputs)) < 0.5, target.values.T, np.nan).T for target in table.targets)
    targets = zip(table.targets, kept, strict=True)
    return Table(table.inputs, tuple(Target(target.name, target.kind, values) for target, values in targets))


def _make_hundred(_: Path) -> Table:
    """A hundred numbers in units from 0.1 to 10, half of them curved, with noise from little to more than the rest."""
    inputs, signals = datasets.make_regression(1500, 20, n_informative=10, n_targets=100, random_state=0)
    generator = np.random.default_rng(0)
    signals /= signals.std(0)
    signals[:, ::2] = np.sin(1.5 * signals[:, ::2])
    signals /= signals.std(0)
    noise = generator.normal(size=signals.shape) * 10 ** generator.uniform(-1.5, 0.3, 100)
    values = (signals + noise + generator.normal(size=100)) * 10 ** generator.uniform(-1, 1, 100)
    return Table(inputs, tuple(_number(f"task {i}", column) for i, column in enumerate(values.T)))


def _read_bike_sharing(folder: Path) -> Table:
    """How many casual and registered users hire a bicycle within an hour, from time and weather."""
    hours = pd.read_csv(folder / _FILES["bike_sharing"])
    plain = hours[["yr", "holiday", "workingday", "temp", "atemp", "hum", "windspeed", "weathersit"]].to_numpy(float)
    angles = [2 * np.pi * hours[name] / turn for name, turn in (("hr", 24), ("hr", 12), ("mnth", 12), ("weekday", 7))]
    inputs = np.column_stack([plain, *map(np.sin, angles), *map(np.cos, angles)])
    return Table(inputs, (_number("casual", hours["casual"]), _number("registered", hours["registered"])))


def _read_tox21(folder: Path) -> Table:
    """Twelve assays of toxicity, of which 17 % are missing, from fingerprints folded to 128 bits."""
    with np.load(folder / _FILES["tox21"]) as file:
        bits, labels = np.unpackbits(file["fp"], axis=1), file["y"]
    values = np.where(labels < 0, np.nan, labels)
    targets = (Target(f"assay {i}", "yes_no", column[:, None]) for i, column in enumerate(values.T))
    return Table(bits.reshape(len(bits), 8, 128).max(1).astype(float), tuple(targets))


def _number(name: str, values: np.ndarray) -> Target:
    return Target(name, "number", np.asarray(values, float)[:, None])


def _class(name: str, labels: np.ndarray) -> Target:
    return Target(name, "class", np.asarray(labels, float)[:, None])


TABLES: dict[str, Callable[[Path], Table]] = {
    "bike_sharing": _read_bike_sharing,
    "diabetes": _read_diabetes,
    "digits": _read_digits,
    "hundred": _make_hundred,
    "iris": _read_iris,
    "nuclei": _read_nuclei,
    "nuclei_missing": _read_nuclei_missing,
    "tox21": _read_tox21,
    "tumour": _read_tumour,
    "wine": _read_wine,
}
"""How each table is read, by name."""
