"""Runs as tables: a row per run, read from their folders."""

import json
import math
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lossbalance._utils.checks import did_you_mean
from lossbalance.sweeps.summary_files import find_runs, read_summary

_NOT_CHOICES = {"seed", "fold", "resume", "ckpt_path", "experiment", "output_dir"}
_OF_THE_MACHINE = {"trainer", "accelerator", "threads", "num_workers", "pin_memory", "logger", "save_dir", "dirpath"}
_PATH = re.compile(r"(/|[A-Za-z]:\\).*[/\\]")  # up to the name of the file
_INCOMPLETE = ["broken", "unfinished"]  # a run of which not all choices are known


class NoRunsError(ValueError):
    """There is nothing to report; the message says where runs were looked for and what was found instead."""


@dataclass(frozen=True)
class Runs:
    """What is known of each run: four frames with the same index, a row per run.

    A *setting* is the configuration of a run, except for seed and fold; its name has only what distinguishes it.
    """

    info: pd.DataFrame
    """``folder, status, message, task, loss, seed, fold, folds, seconds, objective, direction, terms, setting``."""
    choices: pd.DataFrame
    """The configuration of the runs, by key."""
    metrics: pd.DataFrame
    """The unweighted metrics, by name."""
    weights: pd.DataFrame
    """The last weight of each term."""

    def select(self, rows: Any) -> "Runs":
        """Returns some of the runs, by anything that ``.loc`` takes."""
        return Runs(self.info.loc[rows], self.choices.loc[rows], self.metrics.loc[rows], self.weights.loc[rows])

    def of_task(self, task: str) -> "Runs":
        """Returns the runs of one task, with the metrics and terms that it has."""
        runs = self.select(self.info["task"] == task)
        objectives = set(runs.info["objective"].dropna())
        known = [name for name in runs.metrics if runs.metrics[name].notna().any() or name in objectives]
        return Runs(runs.info, runs.choices, runs.metrics[known], runs.weights.dropna(axis="columns", how="all"))

    @cached_property
    def completed(self) -> "Runs":
        """The runs that came to their end with a finite objective."""
        return self.select(self.info["status"] == "completed")

    @cached_property
    def failed(self) -> "Runs":
        """All the others."""
        return self.select(self.info["status"] != "completed")

    @cached_property
    def common(self) -> dict[str, Any]:
        """The choices that all the runs share."""
        return {key: column.iloc[0] for key, column in self._known_choices.items() if column.nunique(dropna=False) == 1}

    @cached_property
    def distinguishing(self) -> list[str]:
        """The choices that tell settings apart, names of groups before their values, none that is redundant."""
        distinguishing: list[str] = []
        groups, count = np.zeros(len(self._known_choices), dtype=int), 1
        for key in sorted(self._known_choices, key=lambda key: ("." in key, key not in ("task", "loss", "alpha"))):
            finer = self._known_choices.groupby([groups, key], dropna=False).ngroup().to_numpy()
            if finer.max(initial=0) + 1 > count:
                distinguishing.append(key)
                groups, count = finer, finer.max() + 1
        return distinguishing

    def label(self, left_out: Container[str] = ()) -> list[str]:
        """Names the setting of each run as it is typed on the command line."""
        keys = [key for key in self.distinguishing if key not in left_out]
        rows = self.choices[keys].astype(object).to_numpy()
        parts = [
            [f"{key}={show(value)}" for key, value in zip(keys, row, strict=True) if not pd.isna(value)] for row in rows
        ]
        return [" ".join(part) or f"loss={loss}" for part, loss in zip(parts, self.info["loss"], strict=True)]

    @property
    def _known_choices(self) -> pd.DataFrame:
        found = ~self.info["status"].isin(_INCOMPLETE)
        return self.choices[found] if found.any() else self.choices

    def check_metric(self, name: str) -> None:
        """Checks that some run has the metric.

        Raises:
            ValueError: If none has; the message lists those that exist.
        """
        if name not in self.metrics:
            known, tasks = sorted(self.metrics), set(self.info["task"]) - {""}
            of_task = f" of {tasks.pop()!r}" if len(tasks) == 1 else ""
            near = did_you_mean(name, known)
            raise ValueError(f"no run{of_task} has the metric {name!r}{near}; those that exist: {known}.")


def read_runs(folders: Iterable[str | Path]) -> Runs:
    """Reads every run below the folders.

    A run is a folder with a ``summary.json``, or one that Hydra began (``.hydra``) and nothing finished. Where the
    same setting ran twice with the same seed and fold, the run that completed last counts.

    Raises:
        NoRunsError: If there is no such folder, no run in it, or none that can be read.
    """
    roots = [Path(folder) for folder in folders]
    for root in roots:
        if not root.is_dir():
            raise NoRunsError(f"no such folder: {str(root)!r}.")
    places = dict.fromkeys(place.resolve() for root in roots for place in find_runs(root))
    names = ", ".join(repr(str(root)) for root in roots)
    if not places:
        raise NoRunsError(f"no run in {names}: a run leaves a `summary.json`, as `lossbalance train` does.")
    summaries = [read_summary(place) for place in places]
    if all(summary["status"] == "broken" for summary in summaries):
        raise NoRunsError(f"no run in {names} can be read. {summaries[0]['folder']}: {summaries[0]['message']}")
    return _name_settings(_tabulate(summaries))


def show(value: Any) -> str:
    """Writes a value as one would type it: ``0.7``, not ``0.7000000000000001``."""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _tabulate(summaries: list[dict[str, Any]]) -> Runs:
    choices = [_choices(summary) for summary in summaries]
    kept = [{key: value for key, value in chosen.items() if _is_choice(key)} for chosen in choices]
    return Runs(
        info=pd.DataFrame([_info(summary, chosen) for summary, chosen in zip(summaries, choices, strict=True)]),
        choices=pd.DataFrame(kept, index=range(len(kept)), dtype=object),
        metrics=_metrics(summaries),
        weights=_numbers(summary.get("weights") for summary in summaries),
    )


def _name_settings(runs: Runs) -> Runs:
    """Names the settings of each task, and leaves out runs that were done again."""
    tasks = runs.info["task"].where(runs.info["task"] != "")
    runs.info["task"] = tasks.fillna(
        tasks.dropna().iloc[0] if tasks.nunique() == 1 else ""
    )  # the unfinished may not know
    for _, same in runs.info.groupby("task"):
        runs.info.loc[same.index, "setting"] = runs.select(same.index).label()
    order = runs.info.assign(good=runs.info["status"] == "completed").sort_values(["good", "written"], kind="stable")
    order = order[order["status"] != "broken"]
    last = order.drop_duplicates(["task", "setting", "seed", "fold"], keep="last").index
    return runs.select(sorted(last.union(runs.info.index.difference(order.index))))


def _info(summary: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    objective = summary.get("objective") or {}
    status, message = summary["status"], summary.get("message") or ""
    if status == "completed" and not math.isfinite(_number(objective.get("value", 0.0))):
        status, message = "diverged", f"{objective.get('name')} is {objective.get('value')}"
    return {
        "folder": summary["folder"],
        "status": status,
        "message": message,
        "task": _name_task(choices),
        "loss": show(choices.get("loss", "")),
        "seed": choices.get("seed"),
        "fold": choices.get("fold"),
        "folds": choices.get("folds"),
        "seconds": _number(summary.get("seconds")),
        "objective": objective.get("name"),
        "direction": objective.get("direction"),
        "terms": tuple(summary.get("terms") or ()),
        "written": summary["written"],
    }


def _choices(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run: flat, or failing that its overrides."""
    found = {key: summary[key] for key in ("task", "loss", "seed", "fold", "folds") if summary.get(key) is not None}
    if summary.get("config"):
        found |= summary["config"]
    else:
        overrides = [override.lstrip("+~") for override in summary.get("overrides") or []]
        found |= dict(override.split("=", 1) for override in overrides if "=" in override)
        if found.get("loss", "alpha") != "alpha":
            found.pop("alpha", None)  # only that scheme reads it
    return {key: _tidy(value) for key, value in found.items() if value is not None}


def _name_task(choices: Mapping[str, Any]) -> str:
    """Returns the name of what was trained: two files, or two sets of targets, are not one task."""
    parts = [choices.get("task", ""), choices.get("task.path"), choices.get("task.targets")]
    return " ".join(show(part) for part in parts if part is not None)


def _is_choice(key: str) -> bool:
    """Whether it is something that a run may differ in, whatever machine it was on."""
    name = key.rpartition(".")[2]
    return name not in _NOT_CHOICES | _OF_THE_MACHINE and not key.startswith(("hydra", "logger."))


def _tidy(value: Any) -> Any:
    """Rounds numbers, also those that came as text, so that equal choices are equal."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return json.dumps(value)
    return _tidy_scalar(value)


@lru_cache(maxsize=100_000, typed=True)  # thousands of runs have nearly the same settings
def _tidy_scalar(value: str | int | float) -> str | int | float:
    try:
        number = float(f"{float(value):.10g}")
    except ValueError:
        return _PATH.sub("", str(value))  # the same file is elsewhere on another machine
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def _metrics(summaries: list[dict[str, Any]]) -> pd.DataFrame:
    metrics = _numbers(summary.get("metrics") for summary in summaries)
    names = {str((summary.get("objective") or {}).get("name")) for summary in summaries} - {"None"}
    return metrics.reindex(columns=[*metrics, *sorted(names - set(metrics))])


def _numbers(mappings: Iterable[Mapping[str, Any] | None]) -> pd.DataFrame:
    rows = [mapping or {} for mapping in mappings]
    return pd.DataFrame(rows, index=range(len(rows))).astype(float)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
