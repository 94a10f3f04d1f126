"""Turns folders of runs into a table, pictures and one sentence that says what to use.

python scripts/report.py multirun/two_digits/2025-01-01_12-00-00
"""

import sys

from lossbalance.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
