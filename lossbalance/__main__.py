"""``python -m lossbalance`` is the command ``lossbalance``."""

import sys

from lossbalance.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
