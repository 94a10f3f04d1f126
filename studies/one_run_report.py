"""What the study of one run shows: a table, a picture, a sentence, files."""

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from studies.one_run import MISSING_TABLE, Settings, study
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
        console.print(f"The table {name} is left out: {MISSING_TABLE}.", soft_wrap=True, markup=False)
    results = study(present, folder, jobs, console)
    results.to_csv(folder / "results.csv", index=False)
    comparisons = {
        "as it is": compare(results),
        "with loss_sum": compare(results, loss_sum=True),
        "with loss_sum, at the last step": compare(results, loss_sum=True, checkpoint="last"),
        "with loss_sum, as the sweep": compare(results, loss_sum=True, sweep_loss_sum=True),
        "test loss in place of error": compare(results, measure="loss"),
    }
    pd.concat(comparisons, names=["comparison"]).to_csv(folder / "excess.csv")
    plain, with_loss_sum, *_ = comparisons.values()
    picture = picture or folder / "one_run.png"
    draw_one_run(plain, with_loss_sum).savefig(picture)
    console.print(f"Test error above that of the best fixed weights of a sweep, {settings.seeds} seeds", soft_wrap=True)
    for name, comparison in comparisons.items():
        console.print(_show(name, comparison))
    found = answer(plain, with_loss_sum)
    console.print(found.sentence, soft_wrap=True)
    console.print(f"{picture}, {folder / 'excess.csv'}, {folder / 'results.csv'}", soft_wrap=True)
    return found


def _show(name: str, comparison: pd.DataFrame) -> Table:
    table = Table(title=f"{name[0].upper()}{name[1:]}", title_justify="left")
    for column in ("scheme", "mean", "worst", "on"):
        table.add_column(column, justify="right" if column in ("mean", "worst") else "left", no_wrap=True)
    for scheme, row in summarize(comparison).iterrows():
        table.add_row(str(scheme), f"{row['mean']:+.1%}", f"{row['worst']:+.1%}", row["where"])
    return table
