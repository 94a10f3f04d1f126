"""The command ``lossbalance train``: one run or, with ``-m``, many, as ``conf/`` and the command line say."""

import sys
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from lossbalance.cli.command import command_line
from lossbalance.cli.config.overrides import add_implied
from lossbalance.cli.help import print_help
from lossbalance.cli.runs.run import run


@hydra.main(version_base="1.3", config_path="pkg://lossbalance.conf", config_name="train")
def train(config: DictConfig) -> float:
    """Returns the unweighted validation metric that a sweep looks at."""
    return run(config)


def main(words: Sequence[str]) -> None:
    """Trains, or prints help; leaves with an exit code as :func:`lossbalance.cli.command.command_line` does."""
    words = add_implied(words)
    asked = {"-h", "--help"}.intersection(words)
    if asked:
        print_help([word for word in words if word not in asked])
        return
    sys.argv[1:] = words  # Hydra reads them there, and so does Lightning, to start other processes
    command_line(train)
