"""Runs the command line as a user does."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def train(*words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs ``scripts/train.py`` with these words, to its end."""
    return subprocess.run(
        command(*words), capture_output=True, text=True, env=surroundings() | (environment or {}), timeout=180
    )


def command(*words: str) -> list[str]:
    """The program and its words."""
    return [sys.executable, str(ROOT / "scripts" / "train.py"), *words]


def surroundings() -> dict[str, str]:
    """The environment of the program: this checkout, one thread."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
