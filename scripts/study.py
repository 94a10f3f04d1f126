"""Answers a question by training many networks, and draws the answer.

python scripts/study.py width_transfer   # which normalization of a penalty lets its strength stay as a network grows?
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the studies are beside the package, not in it

from studies.report import report_width_transfer
from studies.width_transfer import Settings


def main() -> str | None:
    """Runs the study that the command line names; returns what was wrong, if anything."""
    default = Settings()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    studies = parser.add_subparsers(dest="study", required=True)
    widths = studies.add_parser(
        "width_transfer", help="the best strength of a penalty against the width of the network"
    )
    widths.add_argument(
        "--folder", type=Path, default=Path("outputs/width_transfer"), help="where a stopped study goes on"
    )
    widths.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (%(default)s)")
    widths.add_argument("--widths", type=int, nargs="+", default=default.widths, help="units in a layer, ascending")
    widths.add_argument("--seeds", type=int, default=default.seeds, help="of each network (%(default)s)")
    widths.add_argument("--pictures", type=int, default=default.pictures, help="to train on (%(default)s)")
    widths.add_argument("--steps", type=int, default=default.steps, help="of a training (%(default)s)")
    widths.add_argument("--lr", type=float, default=default.lr, help="learning rate of the first step (%(default)s)")
    chosen = vars(parser.parse_args())
    folder, jobs, _ = (chosen.pop(name) for name in ("folder", "jobs", "study"))
    try:
        report_width_transfer(Settings(**chosen | {"widths": tuple(chosen["widths"])}), folder, jobs)
    except (ValueError, OSError) as error:
        return f"error: {error}"
    return None


if __name__ == "__main__":
    sys.exit(main())
