"""Trains one network on several losses, as ``conf/`` and the command line say.

python scripts/train.py loss=alpha alpha=0.3
"""

import hydra
from omegaconf import DictConfig

from lossbalance.cli import command_line, run


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(config: DictConfig) -> float:
    """Returns the unweighted validation metric that a sweep looks at."""
    return run(config)


if __name__ == "__main__":
    command_line(main)
