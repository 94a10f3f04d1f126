"""Trains one network on several losses, as ``conf/`` and the command line say.

python scripts/train.py loss=alpha alpha=0.3
"""

import sys

from lossbalance.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
