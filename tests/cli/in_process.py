"""Runs the command line in this process: what is tested is what a run does, not how it starts."""

import json
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from lossbalance.cli import run
from lossbalance.cli.config.schema import register

ROOT = Path(__file__).parents[2]


def run_here(folder, *words):
    """Runs with these words in the folder; returns the summary."""
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", [*words, f"output_dir='{folder}'"], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    run(config)
    return json.loads((Path(folder) / "summary.json").read_text())
