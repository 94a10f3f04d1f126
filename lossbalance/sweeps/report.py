"""Report of a sweep: ``report.html``, ``results.csv``, ``runs.csv`` and pictures from folders of runs."""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lossbalance import __version__
from lossbalance._utils.checks import check_number
from lossbalance._utils.files import write_bytes, write_text
from lossbalance.sweeps import plots
from lossbalance.sweeps.comparison import Comparison, lower_is_better
from lossbalance.sweeps.courses import QUANTITIES, choose_settings, draw_courses, read_courses
from lossbalance.sweeps.page import Picture, Section, render
from lossbalance.sweeps.runs import Runs, read_runs, show
from lossbalance.sweeps.sparsity import ZEROS_CAPTION, draw_zeros, find_zeros
from lossbalance.sweeps.style import png, svg
from lossbalance.sweeps.tables import tabulate_cells, tabulate_results, tabulate_runs, write_csv
from lossbalance.sweeps.trade_off import TradeOff, default_trade_off, trade_off
from lossbalance.sweeps.verdict import verdict


@dataclass(frozen=True)
class ReportOptions:
    """Options of a report; those that are not given are taken from the runs.

    Args:
        metric: What settings are ranked by; the objective of the runs by default.
        trade_off: The two metrics of the trade-off curve; those of the first two terms by default.
        minimize: Metrics that are to be small, whatever their names suggest.
        maximize: Metrics that are to be large.
        margin: The smallest practically relevant difference of the metric; 1 % of the best mean by default.

    Raises:
        ValueError: If the margin is negative or not finite, or a metric is to be small and large.
    """

    metric: str | None = None
    trade_off: Sequence[str] | None = None
    minimize: Sequence[str] = ()
    maximize: Sequence[str] = ()
    margin: float | None = None

    def __post_init__(self) -> None:
        both = sorted(set(self.minimize) & set(self.maximize))
        if both:
            raise ValueError(f"`minimize` and `maximize` must name different metrics, got {both} in both.")
        if self.margin is not None:
            finite = "a finite number, 0 or more, in the unit of the metric"
            check_number("margin", self.margin, finite, lambda number: 0 <= number < float("inf"))

    def lower(self, metric: str, runs: Runs) -> bool:
        """Whether a small value of the metric is a good one: as asked, as the runs say, or by its name."""
        if metric in self.minimize or metric in self.maximize:
            return metric in self.minimize
        recorded = runs.info.loc[runs.info["objective"] == metric, "direction"].dropna()
        return lower_is_better(metric) if recorded.empty else recorded.iloc[0] == "minimize"


def write_report(
    folders: Sequence[str | Path], out: str | Path | None = None, options: ReportOptions | None = None
) -> str:
    """Reads the runs below the folders and writes the report.

    Args:
        folders: Where to look for runs, at any depth.
        out: Where to write; the first of the folders by default.
        options: What is compared.

    Returns:
        The verdict, a sentence per task.

    Raises:
        NoRunsError: If there is no run, or none that can be read.
        ValueError: If no run, or no run of one task, has a metric that ``options`` names; the message lists those that
            exist.
    """
    options = options or ReportOptions()
    runs = read_runs(folders)
    for name in [options.metric, *(options.trade_off or ()), *options.minimize, *options.maximize]:
        if name is not None:
            runs.check_metric(name)
    out = Path(folders[0] if out is None else out)
    out.mkdir(parents=True, exist_ok=True)
    tasks = list(dict.fromkeys(runs.info["task"]))
    sections, results = [], []
    for task in tasks:
        prefix = f"{_slug(task)}_" if len(tasks) > 1 else ""
        section, table = _answer(runs.of_task(task), options, out, prefix)
        sections.append(section)
        results.append(table)
    write_csv(pd.concat(results), out / "results.csv")
    write_csv(tabulate_runs(runs), out / "runs.csv")
    page = render(", ".join(filter(None, tasks)) or "lossbalance", _origin(folders), sections)
    write_text(out / "report.html", page)
    return "\n".join(section.verdict for section in sections)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``lossbalance report`` with these arguments, by default those of this process; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="lossbalance report", description="Turns folders of runs into a table, pictures and an answer."
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="where runs are, at any depth")
    parser.add_argument("--out", help="where to write; the first FOLDER by default")
    parser.add_argument("--metric", help="what settings are ranked by; the objective of the runs by default")
    parser.add_argument("--trade-off", nargs=2, metavar=("X", "Y"), help="the two metrics of the trade-off curve")
    parser.add_argument("--minimize", action="append", default=[], metavar="METRIC", help="this metric is to be small")
    parser.add_argument("--maximize", action="append", default=[], metavar="METRIC", help="this metric is to be large")
    parser.add_argument("--margin", type=float, help=(
        "the smallest practically relevant difference of the metric; 1 %% of the best mean by default"
    ))  # fmt: skip
    given = parser.parse_args(arguments)
    try:
        options = ReportOptions(given.metric, given.trade_off, given.minimize, given.maximize, given.margin)
        print(write_report(given.folders, given.out, options))
    except OSError as error:
        print(
            f"error: `--out` must be a folder that can be written, got {error.filename!r}: {error.strerror}.",
            file=sys.stderr,
        )
        return 1
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"The whole report: {Path(given.out or given.folders[0]) / 'report.html'}")
    return 0


def _answer(runs: Runs, options: ReportOptions, out: Path, prefix: str) -> tuple[Section, pd.DataFrame]:
    """Answers the question for one task, and writes its pictures."""
    metric = options.metric or _objective(runs)
    runs.check_metric(metric)
    comparison = Comparison(runs, metric, options.lower(metric, runs))
    shown = []
    for name, caption, figure in _pictures(comparison, options):
        drawing = svg(figure, caption)
        write_text(out / f"{prefix}{name}.svg", drawing)
        write_bytes(out / f"{prefix}{name}.png", png(figure))
        shown.append(Picture(drawing, caption))
    results = tabulate_results(comparison)
    failed = runs.failed.info[["setting", "seed", "fold", "status", "folder", "message"]]
    section = Section(
        title=str(runs.info["task"].iloc[0]),
        verdict=verdict(comparison, options.margin),
        facts=_facts(comparison),
        common=runs.common,
        pictures=shown,
        table=tabulate_cells(results, comparison),
        failed=failed.map(lambda value: "" if pd.isna(value) else show(value)),
    )
    return section, results


def _objective(runs: Runs) -> str:
    """The metric that most runs call their objective."""
    named = runs.info["objective"].dropna()
    if named.empty:
        raise ValueError(f"no run says what its objective is: choose --metric from {sorted(runs.metrics)}.")
    return str(named.mode().iloc[0])


def _pictures(comparison: Comparison, options: ReportOptions) -> Iterator[tuple[str, str, Figure]]:
    """Yields the name, the caption and the picture, as far as the runs allow."""
    if comparison.best is None:
        return
    pair = options.trade_off or default_trade_off(comparison.runs)
    if pair is not None and all(name in comparison.runs.metrics for name in pair):
        x, y = pair
        curve = trade_off(comparison.runs, x, y, (options.lower(x, comparison.runs), options.lower(y, comparison.runs)))
        if len(curve.points):
            caption = "Means with their standard errors; better is up and to the right."
            caption += _front(curve) + _others(comparison.runs, options)
            yield "trade_off", caption, plots.draw_trade_off(curve, comparison)
    if comparison.axis is not None:
        caption = (
            f"Means with 95 % intervals, of which the widest may be cut; ringed: "
            f"the simplest {comparison.axis} within one standard error of the best."
        )
        yield f"by_{_slug(comparison.axis)}", caption, plots.draw_curve(comparison)
        if find_zeros(comparison) is not None:
            yield "zeros", ZEROS_CAPTION, draw_zeros(comparison)
    baseline = comparison.baseline
    if baseline is not None and (comparison.differences(baseline).drop(index=baseline)["pairs"] > 1).any():
        caption = f"Paired differences from {baseline}, with 95 % intervals; where a point is hollow it may be chance."
        yield "differences", caption, plots.draw_differences(comparison, baseline)
    yield from _courses(comparison)


def _courses(comparison: Comparison) -> Iterator[tuple[str, str, Figure]]:
    settings = choose_settings(comparison)
    courses = read_courses(comparison.runs, settings)
    for drawn, name in QUANTITIES.items():
        if (courses["quantity"] == drawn).any():
            caption = f"The {name}, by epoch: mean over runs, and a band from the lowest to the highest of them."
            yield f"course_{drawn}", caption, draw_courses(courses, drawn, settings)


def _origin(folders: Sequence[str | Path]) -> str:
    """Names the folders that the runs are from, and the version that wrote the report."""
    return f"{', '.join(Path(folder).resolve().name for folder in folders)}; lossbalance {__version__}"


def _front(curve: TradeOff) -> str:
    if np.isnan(curve.hypervolume):
        return ""
    return f" Hypervolume: the front dominates {curve.hypervolume:.1%} of the box from the worst to the best values."


def _others(runs: Runs, options: ReportOptions) -> str:
    """Says that there are further pairs of terms, where the first two were taken."""
    count = max((len(terms) for terms in runs.info["terms"]), default=0)
    if options.trade_off or count < 3:
        return ""
    return f" These are the first two of {count} terms; `--trade-off X Y` draws another pair."


def _facts(comparison: Comparison) -> str:
    runs = comparison.runs
    failed, seconds = len(runs.failed.info), runs.completed.info["seconds"].sum()
    unfinished = f"; {failed} did not complete" if failed else ""
    return (
        f"{len(runs.info)} runs of {len(comparison.settings)} settings, {seconds:.0f} seconds of training{unfinished}."
    )


def _slug(name: str) -> str:
    return re.sub(r"\W+", "_", name)
