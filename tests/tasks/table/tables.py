"""A small table with targets of every kind, labels and features missing."""

from pathlib import Path

import numpy as np
import pandas as pd

TARGETS = ["price", "sold", "grade.of"]


def table(rows: int = 200) -> pd.DataFrame:
    random = np.random.default_rng(0)
    size, town = random.normal(100, 20, rows), random.choice(["Rome", "Oslo", "Bern"], rows)
    price = 1000 * size + 5000 * (town == "Oslo")
    frame = pd.DataFrame({"size": size, "town": town, "price": price, "sold": np.where(size > 100, "yes", "no")})
    frame["grade.of"] = pd.cut(size, 4, labels=False) + 1
    frame.loc[::7, "town"] = None
    frame.loc[::5, "sold"] = None
    frame.loc[3::9, "price"] = np.nan
    return frame


def write(folder: Path, frame: pd.DataFrame | None = None) -> str:
    path = folder / "houses.csv"
    (table() if frame is None else frame).to_csv(path, index=False)
    return str(path)
