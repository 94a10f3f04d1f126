"""Trains the networks of a study, and draws its conclusion: ``python scripts/study.py --help``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the studies are beside the package, not in it

from studies.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
