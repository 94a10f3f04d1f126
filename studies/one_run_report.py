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
    comparisons = {
        "as it is": compare(results),
        "with loss_sum": compare(results, loss_sum=True),
        "with loss_sum, as the sweep": compare(results, loss_sum=True, sweep_loss_sum=True),
        "with loss_sum, last step": compare(results, loss_sum=True, checkpoint="last"),
        "test loss in place of error": compare(results, measure="loss"),
    }
    pd.concat(comparisons, names=["comparison"]).to_csv(folder / "excess.csv")
    plain, with_loss_sum, *_ = comparisons.values()
    picture = picture or folder / "one_run.png"
    draw_one_run(plain, with_loss_sum).savefig(picture)
    console.print(_show(comparisons, settings.seeds))
    found = answer(plain, with_loss_sum)
    console.print(found.sentence, soft_wrap=True)
    console.print(f"{picture}, {folder / 'excess.csv'}, {folder / 'results.csv'}", soft_wrap=True)
    return found


def _show(comparisons: dict[str, pd.DataFrame], seeds: int) -> Table:
    columns = {name: _format(comparison) for name, comparison in comparisons.items()}
    count = next(iter(comparisons.values())).index.get_level_values("table").nunique()
    title = (
        f"Test error above that of the best fixed weights of a sweep, mean and worst of {count} tables, {seeds} seeds"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("scheme")
    for name in columns:
        table.add_column(name, justify="right")
        table.add_column("on")
    for scheme in next(iter(columns.values())):
        table.add_row(scheme, *(cell for column in columns.values() for cell in column[scheme]))
    return table


def _format(comparison: pd.DataFrame) -> dict[str, list[str]]:
    rows = summarize(comparison).iterrows()
    return {str(name): [f"{row['mean']:+.1%} {row['worst']:+7.1%}", row["where"]] for name, row in rows}
