"""Tests a checkpoint of a run.

python scripts/eval.py ckpt_path=outputs/.../checkpoints/best.ckpt
"""

import sys

from lossbalance.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
