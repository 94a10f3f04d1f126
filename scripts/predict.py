"""Predicts the rows of a table by a run of task=table.

python scripts/predict.py ckpt_path=outputs/.../checkpoints/best.ckpt task.path=new.csv
"""

import sys

from lossbalance.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
