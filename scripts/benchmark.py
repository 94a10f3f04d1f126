"""Measures what the library costs, as ratios to plain PyTorch: ``python scripts/benchmark.py --help``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks are beside the package, not in it

from benchmarks.__main__ import main

if __name__ == "__main__":
    main()
