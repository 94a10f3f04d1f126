"""Progress of a sweep: a line per completed run, and the estimated time remaining."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lossbalance._utils.warn import warn_about
from lossbalance.cli.runs.warnings_summary import collect_warnings

_PLAN, _EVENTS = ".plan.json", ".events"
_BEGUN, _ENDED, _SKIPPED = "bes"


def record_start(folder: Path, overrides: Sequence[str]) -> None:
    """Records that a run of the sweep has started, in any process; warnings from now on carry its name.

    Args:
        folder: The folder of the sweep.
        overrides: Those of the run.
    """
    if planned := _planned(folder):
        _append_event(folder, _BEGUN)
        warn_about(_describe_run(planned, overrides))
        collect_warnings(folder)


def record_end(folder: Path, overrides: Sequence[str], record: Mapping[str, Any], written: float) -> None:
    """Prints the line of a run that has ended, in any process.

    Args:
        folder: The folder of the sweep.
        overrides: Those of the run.
        record: Its record.
        written: When its record was written, in seconds since 1970.
    """
    planned = _planned(folder)
    if not planned:
        return
    skipped = written < planned["started"]
    events = _append_event(folder, _SKIPPED if skipped else _ENDED)
    ended, silent = events.count(_ENDED), events.count(_SKIPPED)
    line = [f"{ended + silent}/{planned['runs']}", _describe_run(planned, overrides), format_result(record)]
    if skipped:
        line.append("done before")
    else:
        running = events.count(_BEGUN) - ended - silent
        done = ended + running / 2  # running ones are half done on average
        elapsed = time.time() - planned["started"]
        line += [
            f"{record.get('seconds', 0):.0f} s",
            format_remaining(elapsed * (planned["runs"] - silent - done) / done),
        ]
    print("  ".join(filter(None, line)), flush=True)


def _planned(folder: Path) -> dict[str, Any]:
    """Returns the plan of the sweep, see ``hydra_plugins.lossbalance_grids``; empty without a sweep."""
    path = folder / _PLAN
    return json.loads(path.read_text()) if path.exists() else {}


def _describe_run(planned: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """Returns the overrides that tell the run from the others of its sweep."""
    return " ".join(override for override in overrides if override.partition("=")[0] in planned["varying"])


def format_result(record: Mapping[str, Any]) -> str:
    """Formats the result of a run: its objective, or its status and message."""
    objective = record.get("objective", {})
    if record.get("status") == "completed" and objective.get("value") is not None:
        return f"{objective['name']} {objective['value']:.4g}"
    return f"{record.get('status', 'failed')}: {(record.get('message') or ' ').splitlines()[0]}".rstrip(": ")


def format_remaining(seconds: float) -> str:
    """Formats the estimated time remaining; empty when there is none."""
    if seconds < 1:
        return ""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"({seconds / size:.{1 if seconds < 10 * size and unit == 'h' else 0}f} {unit} left)"
    return f"({seconds:.0f} s left)"


def _append_event(folder: Path, event: str) -> str:
    """Appends an event, one process at a time, and returns all."""
    with (folder / _EVENTS).open("a+") as file:
        with suppress(ImportError):  # not on Windows
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        file.write(event)
        file.flush()
        file.seek(0)
        return file.read()
