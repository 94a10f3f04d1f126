"""Summary files: finds the folders of runs and reads what each of them recorded."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf


def find_runs(folder: Path) -> Iterator[Path]:
    """Yields the folders of runs at any depth, in the order of their jobs."""
    for place, inner, files in os.walk(folder):
        if "summary.json" in files or ".hydra" in inner:
            inner.clear()
            yield Path(place)
        inner.sort(key=lambda name: (len(name), name))  # job 2 before job 10


def read_summary(folder: Path) -> dict[str, Any]:
    """Returns the record of a run, with its ``folder`` and when it was ``written``; a broken one says so."""
    path = folder / "summary.json"
    found: dict[str, Any] = {"folder": str(folder), "written": 0.0}
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        _check(summary)
    except FileNotFoundError:
        return _unfinished(folder) | found
    except (OSError, ValueError, TypeError) as error:
        return {"status": "broken", "message": f"`summary.json` cannot be read: {error}"} | found
    return {"status": "completed"} | summary | found | {"written": path.stat().st_mtime}


def _check(summary: Any) -> None:
    if not isinstance(summary, dict):
        raise TypeError(f"it must be a mapping, got {type(summary).__name__}")
    for key in ("metrics", "weights", "config", "objective"):
        if not isinstance(summary.get(key) or {}, dict):
            raise TypeError(f"`{key}` must be a mapping, got {summary[key]!r}")
    for group in ("metrics", "weights"):
        for name, value in (summary.get(group) or {}).items():
            if not isinstance(value, int | float | None):
                raise TypeError(f"`{group}` must map to numbers, got {value!r} for {name!r}")


def _unfinished(folder: Path) -> dict[str, Any]:
    overrides = folder / ".hydra" / "overrides.yaml"
    return {
        "status": "unfinished",
        "message": "no `summary.json`: killed, or still running",
        "overrides": OmegaConf.to_container(OmegaConf.load(overrides)) if overrides.is_file() else [],
    }
