"""What the study of widths says: a table, a picture, files."""

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from studies.plots import draw_transfer
from studies.width_transfer import Settings, at_the_edge, study, summarize, transfer


def report_width_transfer(settings: Settings, folder: Path, jobs: int, console: Console | None = None) -> pd.DataFrame:
    """Trains what is not trained yet, shows the table, and writes ``results.csv`` and ``width_transfer.png``.

    Returns:
        What :func:`studies.width_transfer.summarize` does.
    """
    console = console or Console()
    results = study(settings, folder, jobs, console)
    results.to_csv(folder / "results.csv", index=False)
    table = transfer(results)
    draw_transfer(table).savefig(folder / "width_transfer.png")
    summary = summarize(table)
    console.print(_show(summary, settings))
    for place in at_the_edge(results):
        console.print(f"The best strength of {place} is at the edge of its grid; a better one may lie beyond.")
    console.print(f"{folder / 'width_transfer.png'}, {folder / 'results.csv'}", soft_wrap=True)
    return summary


def _show(summary: pd.DataFrame, settings: Settings) -> Table:
    narrow, wide = settings.widths[0], settings.widths[-1]
    table = Table(title=f"From width {narrow} to {wide}, {settings.seeds} seeds", title_justify="left")
    table.add_column("normalization")
    for column in (
        "best strength moves by",
        f"test loss at {wide}, strength of {narrow}",
        "tuned again",
        "price, mean over widths",
        "share of value",
        "share of gradient",
    ):
        table.add_column(column, justify="right")
    for name, row in summary.iterrows():
        table.add_row(
            str(name),
            f"× {row['best']:.3g}",
            f"{row['kept_loss']:.3f}",
            f"{row['tuned_loss']:.3f}",
            f"{row['price']:.3f} ± {row['price_se']:.3f}",
            f"{row['narrow_value_share']:.0%} to {row['wide_value_share']:.0%}",
            f"{row['narrow_gradient_share']:.0%} to {row['wide_gradient_share']:.0%}",
        )
    return table
