"""Searches schemes, weights and penalties with Optuna.

python scripts/search.py loss=alpha 'alpha=tag(log,interval(1e-6,1))' task=raw_pixels --trials 50
"""

import sys

from lossbalance.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["search", *sys.argv[1:]]))
