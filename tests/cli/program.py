"""Runs the command line as a user does."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from lossbalance.cli import run
from lossbalance.cli.config.schema import register

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


@contextmanager
def configurations() -> Iterator[None]:
    """Makes ``compose`` find what is in ``conf/``, and know its types."""
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def train_here(*words: str, folder: Path) -> float:
    """Does what ``scripts/train.py`` does with these words, in this process."""
    with configurations():
        config = compose("train", [*words, f"output_dir='{folder}'"], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        return run(config)
