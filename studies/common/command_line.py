"""Trainings of a study that are runs of the command line."""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from lossbalance.cli.config.schema import register
from lossbalance.cli.runs.record import read
from lossbalance.cli.runs.run import run

_CONF = Path(__file__).parents[2] / "conf"


def train(overrides: Sequence[str]) -> dict[str, Any]:
    """Trains as ``scripts/train.py`` does with these overrides, and returns the content of ``summary.json``."""
    register()
    with tempfile.TemporaryDirectory() as folder:
        with initialize_config_dir(str(_CONF), version_base="1.3"):
            quiet = ["hydra.mode=MULTIRUN", f"output_dir='{folder}'"]  # one of several runs shows no table
            config = compose("train", [*overrides, *quiet], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a study tries settings that are known to be bad
            run(config)
        return read(Path(folder))
