"""Development tables: real ones that packages bring or a folder holds, and some that are generated."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn import datasets

from studies.one_run.tables.table import Table, Target, make_class, make_number

_FILES = {"bike_sharing": "bike_sharing/hour.csv", "tox21": "tox21/ecfp4_1024.npz"}  # that no package brings
_STATSMODELS = ("anes96", "fair", "randhie", "randhie_missing", "star98")


def is_present(name: str, folder: Path | None) -> bool:
    """Returns whether a table can be read."""
    if name in _STATSMODELS:
        return find_spec("statsmodels") is not None
    return name not in _FILES or (folder is not None and (folder / _FILES[name]).exists())


def _read_diabetes(_: Path | None) -> Table:
    """Six blood values and the progress of the disease, from age, sex, body mass index and blood pressure."""
    data = datasets.load_diabetes(scaled=False)
    blood = [make_number(name, data.data[:, i]) for i, name in enumerate(data.feature_names) if i >= 4]
    return Table(data.data[:, :4], (make_number("progression", data.target), *blood))


def _read_digits(_: Path | None) -> Table:
    """The digit and the lower half of its picture, from the upper half."""
    pixels, digits = datasets.load_digits(return_X_y=True)
    return Table(pixels[:, :32], (make_class("digit", digits), Target("lower_half", "number", pixels[:, 32:])))


def _read_iris(_: Path | None) -> Table:
    """The species and the size of the petals, from that of the sepals."""
    data = datasets.load_iris()
    petals = (make_number(data.feature_names[i], data.data[:, i]) for i in (2, 3))
    return Table(data.data[:, :2], (make_class("species", data.target), *petals))


def _read_wine(_: Path | None) -> Table:
    """The cultivar and the amount of proline, from the other ingredients."""
    values, cultivars = datasets.load_wine(return_X_y=True)
    return Table(values[:, :12], (make_class("cultivar", cultivars), make_number("proline", values[:, 12])))


def _read_tumour(_: Path | None) -> Table:
    """The diagnosis and the area of the largest nuclei, from means of what does not tell the size."""
    data = datasets.load_breast_cancer()
    shape = [1, 4, 5, 6, 7, 8, 9]
    return Table(
        data.data[:, shape], (make_class("diagnosis", data.target), make_number("worst area", data.data[:, 23]))
    )


def _read_nuclei(_: Path | None) -> Table:
    """The diagnosis and the size of the largest nuclei in four units, from means and standard errors."""
    data = datasets.load_breast_cancer()
    sizes = (make_number(data.feature_names[i], data.data[:, i]) for i in range(20, 24))
    return Table(data.data[:, :20], (make_class("diagnosis", data.target), *sizes))


def _read_nuclei_missing(folder: Path | None) -> Table:
    """The same with half of the labels removed at random."""
    return _remove_half(_read_nuclei(folder))


def _remove_half(table: Table) -> Table:
    generator = np.random.default_rng(0)
    kept = (np.where(generator.random(len(table.inputs)) < 0.5, target.values.T, np.nan).T for target in table.targets)
    targets = zip(table.targets, kept, strict=True)
    return Table(table.inputs, tuple(Target(target.name, target.kind, values) for target, values in targets))


def _make_hundred(_: Path | None) -> Table:
    """A hundred numbers in units from 0.1 to 10, half of them curved, with noise from little to more than the rest."""
    inputs, signals = datasets.make_regression(1500, 20, n_informative=10, n_targets=100, random_state=0)
    generator = np.random.default_rng(0)
    signals /= signals.std(0)
    signals[:, ::2] = np.sin(1.5 * signals[:, ::2])
    signals /= signals.std(0)
    noise = generator.normal(size=signals.shape) * 10 ** generator.uniform(-1.5, 0.3, 100)
    values = (signals + noise + generator.normal(size=100)) * 10 ** generator.uniform(-1, 1, 100)
    return Table(inputs, tuple(make_number(f"task {i}", column) for i, column in enumerate(values.T)))


def _make_friedman(_: Path | None) -> Table:
    """The impedance of a circuit, with noise, and whether its phase is above the median (Friedman 1991)."""
    inputs, impedance = datasets.make_friedman2(1000, noise=50, random_state=1)
    noise = 0.1 * np.random.default_rng(1).normal(size=1000)
    reactance = inputs[:, 1] * inputs[:, 2] - 1 / (inputs[:, 1] * inputs[:, 3])
    phase = np.arctan(reactance / inputs[:, 0]) + noise
    return Table(inputs, (make_number("impedance", impedance), make_class("phase", phase > np.median(phase))))


def _read_anes96(_: Path | None) -> Table:
    """Income, the size of the town and the vote in an election, from age, education and views."""
    frame = _load("anes96")
    inputs = frame[["TVnews", "selfLR", "ClinLR", "DoleLR", "age", "educ"]].to_numpy(float)
    numbers = (make_number(name, frame[name]) for name in ("income", "popul"))
    return Table(inputs, (*numbers, make_class("vote", frame["vote"])))


def _read_fair(_: Path | None) -> Table:
    """Affairs, the years of a marriage and how it is rated, from age, children, education and occupations."""
    frame = _load("fair")
    inputs = frame[["age", "children", "religious", "educ", "occupation", "occupation_husb"]].to_numpy(float)
    numbers = (make_number(name, frame[name]) for name in ("affairs", "yrs_married"))
    return Table(inputs, (*numbers, make_class("rate", frame["rate_marriage"] - 1)))


def _read_randhie(_: Path | None) -> Table:
    """Visits to a doctor, chronic diseases and a payment of the insurance, from its terms and the state of health."""
    frame, names = _load("randhie"), ["mdvis", "disea", "lpi"]
    return Table(frame.drop(columns=names).to_numpy(float), tuple(make_number(name, frame[name]) for name in names))


def _read_randhie_missing(folder: Path | None) -> Table:
    """The same with half of the labels removed at random."""
    return _remove_half(_read_randhie(folder))


def _read_star98(_: Path | None) -> Table:
    """How many pupils of a district took a test, and how many were above the median, from what is known of it."""
    frame = _load("star98")
    counts = (frame["NABOVE"] + frame["NBELOW"], frame["NABOVE"])
    targets = zip(("took", "above"), counts, strict=True)
    return Table(frame.iloc[:, 2:14].to_numpy(float), tuple(make_number(name, count) for name, count in targets))


def _load(name: str) -> pd.DataFrame:
    datasets = import_module("statsmodels.datasets")
    return getattr(datasets, name).load_pandas().data


def _find(folder: Path | None, name: str) -> Path:
    return (folder or Path()) / _FILES[name]


def _read_bike_sharing(folder: Path | None) -> Table:
    """How many casual and registered users hire a bicycle within an hour, from time and weather."""
    hours = pd.read_csv(_find(folder, "bike_sharing"))
    plain = hours[["yr", "holiday", "workingday", "temp", "atemp", "hum", "windspeed", "weathersit"]].to_numpy(float)
    angles = [2 * np.pi * hours[name] / turn for name, turn in (("hr", 24), ("hr", 12), ("mnth", 12), ("weekday", 7))]
    inputs = np.column_stack([plain, *map(np.sin, angles), *map(np.cos, angles)])
    return Table(inputs, (make_number("casual", hours["casual"]), make_number("registered", hours["registered"])))


def _read_tox21(folder: Path | None) -> Table:
    """Twelve assays of toxicity, of which 17 % are missing, from fingerprints folded to 128 bits."""
    with np.load(_find(folder, "tox21")) as file:
        bits, labels = np.unpackbits(file["fp"], axis=1), file["y"]
    values = np.where(labels < 0, np.nan, labels)
    targets = (Target(f"assay {i}", "yes_no", column[:, None]) for i, column in enumerate(values.T))
    return Table(bits.reshape(len(bits), 8, 128).max(1).astype(float), tuple(targets))


TABLES: dict[str, Callable[[Path | None], Table]] = {
    "anes96": _read_anes96,
    "bike_sharing": _read_bike_sharing,
    "diabetes": _read_diabetes,
    "digits": _read_digits,
    "fair": _read_fair,
    "friedman": _make_friedman,
    "hundred": _make_hundred,
    "iris": _read_iris,
    "nuclei": _read_nuclei,
    "nuclei_missing": _read_nuclei_missing,
    "randhie": _read_randhie,
    "randhie_missing": _read_randhie_missing,
    "star98": _read_star98,
    "tox21": _read_tox21,
    "tumour": _read_tumour,
    "wine": _read_wine,
}
"""How each table is read, by name."""
