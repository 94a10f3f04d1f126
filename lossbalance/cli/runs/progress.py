"""Where a sweep is: a line for each run that ends, and how long the rest will take."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lossbalance._utils.warn import warn_about

_PLAN, _EVENTS = ".plan.json", ".events"
_BEGUN, _ENDED, _SKIPPED = "bes"


def note_begin(folder: Path, words: Sequence[str]) -> None:
    """Notes that a run of the sweep has begun, in whatever process, which is the one its warnings are about.

    Args:
        folder: The folder of the sweep.
        words: What the run was told.
    """
    if planned := _planned(folder):
        _note(folder, _BEGUN)
        warn_about(_tell(planned, words))


def note_end(folder: Path, words: Sequence[str], record: Mapping[str, Any], written: float) -> None:
    """Prints the line of a run that has ended, in whatever process.

    Args:
        folder: The folder of the sweep.
        words: What the run was told.
        record: Its record.
        written: When its record was written, in seconds since 1970.
    """
    planned = _planned(folder)
    if not planned:
        return
    skipped = written < planned["started"]
    events = _note(folder, _SKIPPED if skipped else _ENDED)
    ended, silent = events.count(_ENDED), events.count(_SKIPPED)
    line = [f"{ended + silent}/{planned['runs']}", _tell(planned, words), outcome(record)]
    if skipped:
        line.append("done before")
    else:
        under_way = events.count(_BEGUN) - ended - silent
        done = ended + under_way / 2  # those that are under way are half done, on average
        elapsed = time.time() - planned["started"]
        line += [f"{record.get('seconds', 0):.0f} s", left(elapsed * (planned["runs"] - silent - done) / done)]
    print("  ".join(filter(None, line)), flush=True)


def _planned(folder: Path) -> dict[str, Any]:
    """Returns what the sweeper planned, see ``hydra_plugins.lossbalance_grids``; nothing where there is no sweep."""
    path = folder / _PLAN
    return json.loads(path.read_text()) if path.exists() else {}


def _tell(planned: Mapping[str, Any], words: Sequence[str]) -> str:
    """Says which run of the sweep it is: what it was told that not all were."""
    return " ".join(word for word in words if word.partition("=")[0] in planned["varying"])


def outcome(record: Mapping[str, Any]) -> str:
    """Says what came of a run: its objective, or its status and message."""
    objective = record.get("objective", {})
    if record.get("status") == "completed" and objective.get("value") is not None:
        return f"{objective['name']} {objective['value']:.4g}"
    return f"{record.get('status', 'failed')}: {(record.get('message') or ' ').splitlines()[0]}".rstrip(": ")


def left(seconds: float) -> str:
    """Writes the time that is left; nothing when there is none."""
    if seconds < 1:
        return ""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"({seconds / size:.{1 if seconds < 10 * size and unit == 'h' else 0}f} {unit} left)"
    return f"({seconds:.0f} s left)"


def _note(folder: Path, event: str) -> str:
    """Adds an event, one process at a time, and returns all."""
    with (folder / _EVENTS).open("a+") as file:
        with suppress(ImportError):  # there is none on Windows
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        file.write(event)
        file.flush()
        file.seek(0)
        return file.read()
