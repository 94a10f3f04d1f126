"""Trains the networks of a study, and draws its conclusion. A study that was stopped is resumed.

python scripts/study.py one_run          # weighting schemes against the best fixed weights of a sweep, on tables
python scripts/study.py budget           # error against trainings spent, for searches over weights, rates and ratios
python scripts/study.py auxiliary        # protection of a main loss from its auxiliary losses
python scripts/study.py limits           # limits on one loss against the weights of a sweep
python scripts/study.py pinn             # weighting schemes on a physics-informed network
python scripts/study.py width_transfer   # normalizations of a penalty as a network grows wider
"""

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

from studies.common.arguments import add_options, make_settings
from studies.common.study import Study, report_study

STUDIES = {
    "one_run": "weighting schemes against the best fixed weights of a sweep, on tables with several targets",
    "budget": "error against trainings spent, for searches over weights, learning rates and ratios",
    "auxiliary": "methods that protect a main loss from its auxiliary losses",
    "limits": "limits on one loss against the weights of a sweep",
    "pinn": "weighting schemes on a physics-informed network",
    "width_transfer": "the best strength of a penalty as the network grows wider",
}
"""The packages of studies, with their subjects."""


def main() -> str | None:
    """Runs the study that the command line names; returns an error message, if there is one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="study", required=True)
    for name, subject in STUDIES.items():
        command = commands.add_parser(name, help=subject)
        command.add_argument("--folder", type=Path, default=Path("outputs") / name, help="resumed if it is not empty")
        command.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: %(default)s)")
        command.add_argument("--picture", type=Path, help="where to draw (default: picture.png in the folder)")
        add_options(command, find_study(name).Settings)
    chosen = vars(parser.parse_args())
    study = find_study(chosen["study"])
    try:
        settings = make_settings(study.Settings, chosen)
        report_study(study, settings, chosen["folder"], chosen["jobs"], chosen["picture"])
    except ValueError as error:
        return f"error: {error}"
    except OSError as error:
        return f"error: `--folder` must be a folder that can be written, got {error.filename!r}: {error.strerror}."
    return None


def find_study(name: str) -> Study:
    """Returns a study of :data:`STUDIES`."""
    return import_module(f"studies.{name}")


if __name__ == "__main__":
    sys.exit(main())
