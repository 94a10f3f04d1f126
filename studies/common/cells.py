"""Studies that are trained cell by cell, and go on where they were stopped."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import Parallel, delayed
from rich.console import Console
from rich.progress import track

from lossbalance._utils.checks import check_integer

_EXTENDED = {"seeds"}  # settings that add cells to those of a folder


def train_cells(
    train_cell: Callable[..., pd.DataFrame],
    settings: Any,
    columns: Sequence[str],
    cells: Sequence[tuple[str | float, ...]],
    folder: Path,
    jobs: int,
    console: Console | None = None,
) -> pd.DataFrame:
    """Trains the cells that are not in the folder yet, and returns all of them.

    Args:
        train_cell: Is called with the settings and the cell, and returns its rows.
        settings: A dataclass: what all cells have in common.
        columns: The columns that say which cell a row belongs to.
        cells: The cells, the longest first, so that no process waits at the end.
        folder: Where each finished cell is kept.
        jobs: How many processes share the work.
        console: Where to show progress.

    Raises:
        ValueError: If the folder holds a study with other settings.
    """
    check_integer("jobs", jobs, 1)
    _begin(settings, folder)
    missing = [cell for cell in cells if not _path(folder, cell).exists()]
    results = Parallel(jobs, return_as="generator_unordered")(delayed(train_cell)(settings, *cell) for cell in missing)
    done = len(cells) - len(missing)
    name = f"{len(cells)} stacks of networks"
    for table in track(results, name, total=len(cells), completed=done, console=console, transient=True):
        path = _path(folder, tuple(table[list(columns)].iloc[0]))
        partial = path.with_suffix(".part")
        table.to_csv(partial, index=False)
        partial.replace(path)  # in one piece, whenever the study is stopped
    return pd.concat([pd.read_csv(_path(folder, cell)) for cell in sorted(cells)], ignore_index=True)


def _begin(settings: Any, folder: Path) -> None:
    path, ours = folder / "settings.json", json.loads(json.dumps(asdict(settings), default=str))
    if path.exists():
        theirs = json.loads(path.read_text())
        pairs = {name: (theirs.get(name), value) for name, value in ours.items()}
        different = [
            f"{name} {there} there, {here} here"
            for name, (there, here) in pairs.items()
            if there != here and name not in _EXTENDED
        ]
        if different:
            raise ValueError(
                f"`folder` must be empty or hold a study with the same settings, got {str(folder)!r} with "
                f"{', '.join(different)}: choose another folder."
            )
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(ours, indent=2) + "\n")


def _path(folder: Path, cell: tuple[str | float, ...]) -> Path:
    return folder / "cells" / f"{'-'.join(map(str, cell))}.csv"
