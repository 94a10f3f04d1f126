"""The command ``lossbalance train``: a run or, with ``-m``, a sweep."""

import sys
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from lossbalance.cli.command import command_line
from lossbalance.cli.config.overrides import complete
from lossbalance.cli.help import print_help
from lossbalance.cli.runs.run import run


@hydra.main(version_base="1.3", config_path="pkg://lossbalance.conf", config_name="train")
def train(config: DictConfig) -> float:
    """Returns the unweighted validation metric that a sweep compares."""
    return run(config)


def main(overrides: Sequence[str]) -> None:
    """Trains, or prints help; exits as :func:`lossbalance.cli.command.command_line` does."""
    overrides = complete(overrides)
    flags = {"-h", "--help"}.intersection(overrides)
    if flags:
        print_help([override for override in overrides if override not in flags])
        return
    sys.argv[1:] = overrides  # read by Hydra, and by Lightning to start other processes
    command_line(train)
