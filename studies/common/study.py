"""The protocol of a study, and the report that all studies share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from studies.common.cells import train_cells


class Study(Protocol):
    """A study: a package of :mod:`studies` with these names.

    A study trains networks in cells, each of which can be trained by itself, and draws a conclusion from the rows of
    all of them.
    """

    @property
    def Settings(self) -> type:  # noqa: N802  # a class
        """A dataclass: what the study trains; the docstring describes each field for the command line."""

    @property
    def CELL(self) -> Sequence[str]:  # noqa: N802  # a constant
        """The columns of the results that identify a cell."""

    @property
    def list_cells(self) -> Callable[[Any], Sequence[tuple[Any, ...]]]:
        """Returns the cells under some settings."""

    @property
    def train_cell(self) -> Callable[..., pd.DataFrame]:
        """Trains a cell, from the settings and the values of :attr:`CELL`; returns its rows."""

    @property
    def summarize(self) -> Callable[[pd.DataFrame], pd.DataFrame]:
        """Computes a row for each method from the results."""

    @property
    def tabulate(self) -> Callable[[pd.DataFrame, pd.DataFrame], dict[str, pd.DataFrame]]:
        """Formats results and summary as tables of text, by title."""

    @property
    def conclude(self) -> Callable[[pd.DataFrame, pd.DataFrame], str]:
        """States the conclusion from results and summary, in one or two sentences."""

    @property
    def draw(self) -> Callable[[pd.DataFrame, pd.DataFrame], Figure]:
        """Draws results and summary."""


def train_study(
    study: Study, settings: Any, folder: Path, jobs: int = 1, console: Console | None = None
) -> pd.DataFrame:
    """Trains the cells that are not trained yet, and returns the rows of all.

    Args:
        study: The study.
        settings: What to train.
        folder: Where each finished cell is kept, so that a study that was stopped is resumed.
        jobs: How many processes share the work.
        console: Where to show progress.

    Raises:
        ValueError: If the folder holds a study with other settings.
    """
    return train_cells(study.train_cell, settings, study.CELL, study.list_cells(settings), folder, jobs, console)


def report_study(
    study: Study,
    settings: Any,
    folder: Path,
    jobs: int = 1,
    picture: Path | None = None,
    console: Console | None = None,
) -> str:
    """Trains what is missing, shows tables and the conclusion, and writes files and a picture.

    Args:
        study: The study.
        settings: What to train.
        folder: Where a stopped study is resumed, and files are written.
        jobs: How many processes share the work.
        picture: Where the picture is written; None for ``picture.png`` in the folder.
        console: Where to show progress and results.

    Returns:
        The conclusion.
    """
    console = console or Console()
    results = train_study(study, settings, folder, jobs, console)
    summary = study.summarize(results)
    results.to_csv(folder / "results.csv", index=False)
    summary.to_csv(folder / "summary.csv")
    picture = picture or folder / "picture.png"
    study.draw(results, summary).savefig(picture)
    for title, table in study.tabulate(results, summary).items():
        console.print(_render(title, table))
    conclusion = study.conclude(results, summary)
    console.print(conclusion, soft_wrap=True)
    console.print(f"{picture}, {folder / 'summary.csv'}, {folder / 'results.csv'}", soft_wrap=True)
    return conclusion


def _render(title: str, table: pd.DataFrame) -> Table:
    """Makes a table for the console; the index is its first column."""
    rendered = Table(title=title, title_justify="left")
    rendered.add_column(str(table.index.name or ""), no_wrap=True)
    for column in table:
        rendered.add_column(str(column), justify="right", no_wrap=True)
    for name, row in table.iterrows():
        rendered.add_row(str(name), *row.astype(str))
    return rendered
