"""Turns folders of runs into ``report.html``, ``results.csv``, ``runs.csv`` and pictures."""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lossbalance.sweeps import plots
from lossbalance.sweeps.page import Picture, Section, render
from lossbalance.sweeps.runs import NoRunsError, Runs, read_runs, show
from lossbalance.sweeps.statistics import (
    Comparison,
    TradeOff,
    default_trade_off,
    lower_is_better,
    quantity,
    trade_off,
    verdict,
)

Cell = tuple[object, object]
"""A text, and the number that it is sorted by."""
_ENDS = ("se", "low", "high")


@dataclass(frozen=True)
class ReportOptions:
    """What a report is to answer; what is left out, the runs decide.

    Args:
        metric: What settings are ranked by; the objective of the runs by default.
        trade_off: The two metrics of the trade-off curve; those of the first two terms by default.
        minimize: Metrics that are to be small, whatever their names suggest.
        maximize: Metrics that are to be large.
    """

    metric: str | None = None
    trade_off: Sequence[str] | None = None
    minimize: Sequence[str] = ()
    maximize: Sequence[str] = ()

    def lower(self, metric: str, runs: Runs) -> bool:
        """Whether a small value of the metric is a good one: as asked, as the runs say, or by its name."""
        if metric in self.minimize or metric in self.maximize:
            return metric in self.minimize
        told = runs.info.loc[runs.info["objective"] == metric, "direction"].dropna()
        return lower_is_better(metric) if told.empty else told.iloc[0] == "minimize"


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
        ValueError: If no run has a metric that ``options`` names; the message lists those that exist.
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
        section, table = _answer(runs.select(runs.info["task"] == task), options, out, prefix)
        sections.append(section)
        results.append(table)
    _write_csv(pd.concat(results), out / "results.csv")
    _write_csv(_flatten(runs), out / "runs.csv")
    page = render(", ".join(Path(folder).resolve().name for folder in folders), sections)
    (out / "report.html").write_text(page, encoding="utf-8")
    return "\n".join(section.verdict for section in sections)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``lossbalance report`` with these words, by default those of this process; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="lossbalance report", description="Turns folders of runs into a table, pictures and an answer."
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="where runs are, at any depth")
    parser.add_argument("--out", help="where to write; the first FOLDER by default")
    parser.add_argument("--metric", help="what settings are ranked by; the objective of the runs by default")
    parser.add_argument("--trade-off", nargs=2, metavar=("X", "Y"), help="the two metrics of the trade-off curve")
    parser.add_argument("--minimize", action="append", default=[], metavar="METRIC", help="this metric is to be small")
    parser.add_argument("--maximize", action="append", default=[], metavar="METRIC", help="this metric is to be large")
    given = parser.parse_args(arguments)
    try:
        options = ReportOptions(given.metric, given.trade_off, given.minimize, given.maximize)
        print(write_report(given.folders, given.out, options))
    except (NoRunsError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"The whole report: {Path(given.out or given.folders[0]) / 'report.html'}")
    return 0


def _answer(runs: Runs, options: ReportOptions, out: Path, prefix: str) -> tuple[Section, pd.DataFrame]:
    """Answers the question for one task, and writes its pictures."""
    metric = options.metric or _objective(runs)
    comparison = Comparison(runs, metric, options.lower(metric, runs))
    shown = []
    for name, caption, figure in _pictures(comparison, options):
        drawing = plots.svg(figure)
        (out / f"{prefix}{name}.svg").write_text(drawing, encoding="utf-8")
        (out / f"{prefix}{name}.png").write_bytes(plots.png(figure))
        shown.append(Picture(drawing, caption))
    results = _results(comparison)
    failed = runs.failed.info[["setting", "seed", "fold", "status", "folder", "message"]]
    section = Section(
        title=str(runs.info["task"].iloc[0]),
        verdict=verdict(comparison),
        facts=_facts(comparison),
        common=runs.common,
        pictures=shown,
        table=_readable(results, comparison),
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
    if pair is not None:
        x, y = pair
        curve = trade_off(comparison.runs, x, y, (options.lower(x, comparison.runs), options.lower(y, comparison.runs)))
        caption = (
            f"Means with their standard errors; better is up and to the right; what is far off is cut.{_front(curve)}"
        )
        yield "trade_off", caption, plots.draw_trade_off(curve, comparison)
    if comparison.axis is not None:
        caption = (
            f"Means with 95 % intervals; what is far off is cut; ringed: "
            f"the simplest {comparison.axis} within one standard error of the best."
        )
        yield f"by_{_slug(comparison.axis)}", caption, plots.draw_curve(comparison)
    baseline = comparison.baseline
    if baseline is not None and (comparison.differences(baseline).drop(index=baseline)["pairs"] > 1).any():
        caption = f"Paired differences from {baseline}, with 95 % intervals; where a point is hollow it may be chance."
        yield "differences", caption, plots.draw_differences(comparison, baseline)


def _front(curve: TradeOff) -> str:
    if np.isnan(curve.hypervolume):
        return ""
    return f" Hypervolume: the front dominates {curve.hypervolume:.1%} of the box from the worst to the best values."


def _results(comparison: Comparison) -> pd.DataFrame:
    """All numbers of each setting, a row each, the best first: what ``results.csv`` holds."""
    done = comparison.runs.completed
    metrics = done.metrics.groupby(done.info["setting"])
    parts = [
        comparison.settings.drop(columns=["mean", "sd"]).rename(
            columns={end: f"{comparison.metric} {end}" for end in _ENDS}
        ),
        metrics.mean().add_suffix(" mean"),
        metrics.std().add_suffix(" sd"),
        done.weights.groupby(done.info["setting"]).mean().add_prefix("weight "),
    ]
    if comparison.baseline is not None:
        differences = comparison.differences(comparison.baseline).drop(columns="sd")
        parts.insert(1, differences.add_prefix("vs baseline: "))
    return comparison.settings[[]].join(parts)


def _readable(results: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    """The table of the page: cells of a text and the number to sort by."""
    others = [name for name in comparison.runs.metrics if name != comparison.metric]
    columns = {
        "setting": _cells(results.index, results.index),
        comparison.metric: _quantities(results, comparison.metric),
    }
    if comparison.baseline is not None:
        ends = results[["vs baseline: difference", "vs baseline: low", "vs baseline: high"]].to_numpy()
        texts = [f"{gap:+.3g} ({low:+.3g} to {high:+.3g})" for gap, low, high in ends]
        silent = ~np.isfinite(ends).all(axis=1) | (results.index == comparison.baseline)
        columns[f"minus {comparison.baseline_name} (95 %)"] = _cells(np.where(silent, "", texts), ends[:, 0])
    columns |= {
        "runs": _cells(results["n"], results["n"]),
        "not completed": _cells(results["failed"], results["failed"]),
    }
    columns |= {name: _quantities(results, name) for name in others}
    for name in [*(f"weight {term}" for term in comparison.runs.weights), "seconds"]:
        columns[name] = _cells([f"{value:.3g}" for value in results[name]], results[name])
    return pd.DataFrame(columns)


def _quantities(results: pd.DataFrame, metric: str) -> list[Cell]:
    means, spreads = results[f"{metric} mean"], results[f"{metric} sd"]
    return _cells([quantity(mean, sd) for mean, sd in zip(means, spreads, strict=True)], means)


def _cells(texts: Iterable[object], numbers: Iterable[object]) -> list[Cell]:
    return [("" if text == "nan" else text, number) for text, number in zip(texts, numbers, strict=True)]


def _facts(comparison: Comparison) -> str:
    runs = comparison.runs
    failed, seconds = len(runs.failed.info), runs.completed.info["seconds"].sum()
    unfinished = f"; {failed} did not complete" if failed else ""
    return (
        f"{len(runs.info)} runs of {len(comparison.settings)} settings, {seconds:.0f} seconds of training{unfinished}."
    )


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, float_format="%.10g")


def _flatten(runs: Runs) -> pd.DataFrame:
    info = runs.info.drop(columns=["written", "terms"]).set_index("folder")
    frames = [runs.choices[runs.distinguishing].add_prefix("choice "), runs.metrics, runs.weights.add_prefix("weight ")]
    return info.join([frame.set_axis(info.index) for frame in frames])


def _slug(name: str) -> str:
    return re.sub(r"\W+", "_", name)
