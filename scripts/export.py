"""Writes a network of task=table with its scaling by torch.export.

python scripts/export.py ckpt_path=outputs/.../checkpoints/best.ckpt
"""

import sys

from lossbalance.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
