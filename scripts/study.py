"""Answers a question by training many networks, and draws the answer. A study that was stopped goes on.

python scripts/study.py one_run          # which scheme, with nothing tuned, ends as well as the best of a sweep?
python scripts/study.py width_transfer   # which normalization of a penalty lets its strength stay as a network grows?
"""

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the studies are beside the package, not in it

from studies import one_run, width_transfer
from studies.one_run_report import report_one_run
from studies.report import report_width_transfer

Parser = argparse.ArgumentParser


def main() -> str | None:
    """Runs the study that the command line names; returns what was wrong, if anything."""
    parser = Parser(description=__doc__.splitlines()[0])
    studies = parser.add_subparsers(dest="study", required=True)
    _add_one_run(studies.add_parser("one_run", help="every scheme against the best fixed weights of a sweep"))
    _add_width_transfer(
        studies.add_parser("width_transfer", help="the best strength of a penalty against the width of the network")
    )
    chosen = vars(parser.parse_args())
    try:
        if chosen["study"] == "one_run":
            settings = one_run.Settings(**_pick(chosen, one_run.Settings))
            report_one_run(settings, chosen["folder"], chosen["jobs"], chosen["picture"])
        else:
            report_width_transfer(
                width_transfer.Settings(**_pick(chosen, width_transfer.Settings)), chosen["folder"], chosen["jobs"]
            )
    except (ValueError, OSError) as error:
        return f"error: {error}"
    return None


def _add_one_run(parser: Parser) -> None:
    default = one_run.Settings()
    _add_common(parser, "one_run")
    parser.add_argument("--tables", nargs="+", default=default.tables, help="all: %(default)s")
    parser.add_argument("--data", type=Path, default=default.data, help="folder of further tables (%(default)s)")
    parser.add_argument("--picture", type=Path, help="where to draw (one_run.png in the folder)")
    parser.add_argument("--seeds", type=int, default=default.seeds, help="of each table (%(default)s)")
    parser.add_argument("--steps", type=int, default=default.steps, help="of a training (%(default)s)")
    parser.add_argument("--batch", type=int, default=default.batch, help="rows in a step (%(default)s)")
    parser.add_argument("--width", type=int, default=default.width, help="units in a hidden layer (%(default)s)")
    parser.add_argument("--lr", type=float, default=default.lr, help="learning rate of Adam (%(default)s)")


def _add_width_transfer(parser: Parser) -> None:
    default = width_transfer.Settings()
    _add_common(parser, "width_transfer")
    parser.add_argument("--widths", type=int, nargs="+", default=default.widths, help="units in a layer, ascending")
    parser.add_argument("--seeds", type=int, default=default.seeds, help="of each network (%(default)s)")
    parser.add_argument("--pictures", type=int, default=default.pictures, help="to train on (%(default)s)")
    parser.add_argument("--steps", type=int, default=default.steps, help="of a training (%(default)s)")
    parser.add_argument("--lr", type=float, default=default.lr, help="learning rate of the first step (%(default)s)")


def _add_common(parser: Parser, name: str) -> None:
    parser.add_argument("--folder", type=Path, default=Path("outputs") / name, help="where a stopped study goes on")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (%(default)s)")


def _pick(chosen: dict[str, Any], settings: type) -> dict[str, Any]:
    """Returns what the settings take of the command line, with lists as tuples."""
    picked = {field.name: chosen[field.name] for field in fields(settings)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in picked.items()}


if __name__ == "__main__":
    sys.exit(main())
