"""What the study of limits shows: a table, a picture, a sentence, files."""

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from studies.limits import LIMIT, Settings, conclude, study, summarize
from studies.limits_plot import draw_limits


def report_limits(
    settings: Settings, folder: Path, jobs: int, picture: Path | None = None, console: Console | None = None
) -> str:
    """Trains what is not trained yet, shows the table and the sentence, and writes files and a picture.

    Args:
        settings: What to train.
        folder: Where a stopped study goes on, and files are written.
        jobs: How many processes share the work.
        picture: Where the picture is written; None for ``limits.png`` in the folder.
        console: Where to show progress and results.

    Returns:
        The sentence.
    """
    console = console or Console()
    results = study(settings, folder, jobs, console)
    results.to_csv(folder / "results.csv", index=False)
    summary = summarize(results)
    summary.to_csv(folder / "summary.csv")
    picture = picture or folder / "limits.png"
    draw_limits(results).savefig(picture)
    console.print(_show(summary, settings.seeds))
    sentence = conclude(summary)
    console.print(sentence, soft_wrap=True)
    console.print(f"{picture}, {folder / 'summary.csv'}, {folder / 'results.csv'}", soft_wrap=True)
    return sentence


def _show(summary: pd.DataFrame, seeds: int) -> Table:
    table = Table(title=f"raw_pixels on test data, mean ± deviation of {seeds} seeds", title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("right digit", "R²", "loss", "in training", "weight"):
        table.add_column(column, justify="right", no_wrap=True)
    for (method, setting), row in summary.iterrows():
        name = "limit" if method == LIMIT else method
        table.add_row(
            f"{name} {setting:g}" if setting else name,
            f"{row['accuracy']:.3f} ± {row['accuracy_sd']:.3f}",
            f"{row['r2']:.3f}",
            f"{row['reconstruction']:.0f} ± {row['reconstruction_sd']:.0f}",
            f"{row['training']:.0f}",
            f"{row['weight']:.2g}",
        )
    return table
