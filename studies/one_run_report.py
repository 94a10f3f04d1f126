"""What the study of one run shows: a table, a picture, a sentence, files."""

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from studies.one_run import Settings, study
from studies.one_run_answer import Answer, answer, compare, summarize
from studies.one_run_plot import draw_one_run


def report_one_run(
    settings: Settings, folder: Path, jobs: int, picture: Path | None = None, console: Console | None = None
) -> Answer:
    """Trains what is not trained yet, shows the table and the answer, and writes files and a picture.

    Args:
        settings: What to train.
        folder: Where a stopped study goes on, and files are written.
        jobs: How many processes share the work.
        picture: Where the picture is written; None for ``one_run.png`` in the folder.
        console: Where to show progress and results.
    """
    console = console or Console()
    present = settings.present()
    for name in sorted(set(settings.tables) - set(present.tables)):
        console.print(f"The table {name} is left out: it is not in {settings.data}.", soft_wrap=True)
    results = study(present, folder, jobs, console)
    results.to_csv(folder / "results.csv", index=False)
    plain, matched, losses = compare(results), compare(results, matched=True), compare(results, measure="loss")
    joined = plain.join([matched.add_suffix("_matched"), losses.add_suffix("_of_loss")])
    joined.to_csv(folder / "excess.csv")
    picture = picture or folder / "one_run.png"
    draw_one_run(plain, matched, losses).savefig(picture)
    console.print(_show(plain, matched, losses, settings.seeds))
    found = answer(plain)
    console.print(found.sentence, soft_wrap=True)
    console.print(f"{picture}, {folder / 'excess.csv'}, {folder / 'results.csv'}", soft_wrap=True)
    return found


def _show(plain: pd.DataFrame, matched: pd.DataFrame, losses: pd.DataFrame, seeds: int) -> Table:
    count = plain.index.get_level_values("table").nunique()
    title = f"Test error above that of the best fixed weights of a sweep, {count} tables, {seeds} seeds"
    table = Table(title=title, title_justify="left")
    table.add_column("scheme")
    for kind in ("", ", at one scale", ", of the loss"):
        table.add_column(f"mean{kind}", justify="right")
        table.add_column("worst", justify="right")
        table.add_column("on")
    columns = [_format(comparison) for comparison in (plain, matched, losses)]
    for name in columns[0]:
        table.add_row(name, *(cell for column in columns for cell in column.get(name, ["", "", ""])))
    return table


def _format(comparison: pd.DataFrame) -> dict[str, list[str]]:
    rows = summarize(comparison).iterrows()
    return {str(name): [f"{row['mean']:+.1%}", f"{row['worst']:+.1%}", row["where"]] for name, row in rows}
