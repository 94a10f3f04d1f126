"""Warnings of a sweep, collected over its runs and summarized at the end."""

import json
import re
import warnings
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

from lossbalance._utils.warn import SUBJECT

_FILE = ".warnings"
_VARYING = re.compile(r"'[^']*'|-?\d[\d.e+-]*%?")  # names and numbers, in which warnings of one kind differ
_MOST = 8  # kinds


def collect_warnings(folder: Path) -> None:
    """Lets warnings be appended to a file of the sweep, in the process of a run, instead of being printed."""

    def append(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        subject, text = SUBJECT.get(), str(message)
        entry = {"run": subject, "message": text.removeprefix(f"{subject}: ") if subject else text}
        with suppress(OSError), (folder / _FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    warnings.showwarning = append


def summarize_warnings(folder: Path) -> list[str]:
    """Returns one line for each kind of warning of a sweep, the most frequent first."""
    path = folder / _FILE
    if not path.is_file():
        return []
    runs: dict[str, set[str]] = defaultdict(set)
    first: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError, KeyError, TypeError):  # a truncated line
            entry = json.loads(line)
            kind = _VARYING.sub("", entry["message"])
            runs[kind].add(entry["run"])
            first.setdefault(kind, entry["message"])
    ordered = sorted(runs, key=lambda kind: -len(runs[kind]))
    lines = [f"warning of {len(runs[kind])} runs, such as {min(runs[kind])}: {first[kind]}" for kind in ordered]
    more = [f"and {len(lines) - _MOST} other kinds of warnings, in {path}"] if len(lines) > _MOST else []
    return [*lines[:_MOST], *more]
