"""Answers a question by training many networks, and draws the answer. A study that was stopped goes on.

python scripts/study.py one_run          # which scheme, with nothing tuned, ends as well as the best of a sweep?
python scripts/study.py limits           # what does a limit on one loss buy, beside the weights of a sweep?
python scripts/study.py pinn             # which scheme helps a physics-informed network, and which to avoid?
python scripts/study.py width_transfer   # which normalization of a penalty lets its strength stay as a network grows?
"""

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the studies are beside the package, not in it

from studies import limits, one_run, pinn, width_transfer
from studies.limits_report import report_limits
from studies.one_run_report import report_one_run
from studies.pinn_report import report_pinn
from studies.report import report_width_transfer
from studies.tables import KEPT_BACK, SEEN

Parser = argparse.ArgumentParser


def main() -> str | None:
    """Runs the study that the command line names; returns what was wrong, if anything."""
    parser = Parser(description=__doc__.splitlines()[0])
    studies = parser.add_subparsers(dest="study", required=True)
    _add_limits(studies.add_parser("limits", help="a limit on one loss against the weights of a sweep"))
    _add_one_run(studies.add_parser("one_run", help="every scheme against the best fixed weights of a sweep"))
    _add_pinn(studies.add_parser("pinn", help="every scheme on the Helmholtz equation"))
    _add_width_transfer(
        studies.add_parser("width_transfer", help="the best strength of a penalty against the width of the network")
    )
    chosen = vars(parser.parse_args())
    run = {
        "limits": _run_limits,
        "one_run": _run_one_run,
        "pinn": _run_pinn,
        "width_transfer": _run_width_transfer,
    }
    try:
        run[chosen["study"]](chosen)
    except ValueError as error:
        return f"error: {error}"
    except OSError as error:
        return f"error: `--folder` must be a folder that can be written, got {error.filename!r}: {error.strerror}."
    return None


def _run_limits(chosen: dict[str, Any]) -> None:
    settings = limits.Settings(**_pick(chosen, limits.Settings))
    report_limits(settings, chosen["folder"], chosen["jobs"], chosen["picture"])


def _run_one_run(chosen: dict[str, Any]) -> None:
    groups = {"seen": SEEN, "kept_back": KEPT_BACK}
    chosen["tables"] = tuple(name for word in chosen["tables"] for name in groups.get(word, (word,)))
    settings = one_run.Settings(**_pick(chosen, one_run.Settings))
    report_one_run(settings, chosen["folder"], chosen["jobs"], chosen["picture"])


def _run_pinn(chosen: dict[str, Any]) -> None:
    settings = pinn.Settings(**_pick(chosen, pinn.Settings))
    report_pinn(settings, chosen["folder"], chosen["jobs"], chosen["picture"])


def _run_width_transfer(chosen: dict[str, Any]) -> None:
    settings = width_transfer.Settings(**_pick(chosen, width_transfer.Settings))
    report_width_transfer(settings, chosen["folder"], chosen["jobs"])


def _add_limits(parser: Parser) -> None:
    default = limits.Settings()
    _add_common(parser, "limits")
    parser.add_argument("--picture", type=Path, help="where to draw (limits.png in the folder)")
    parser.add_argument("--limits", type=float, nargs="+", default=default.limits, help="on the reconstruction loss")
    parser.add_argument("--alphas", type=float, nargs="+", default=default.alphas, help="weights of the reconstruction")
    parser.add_argument("--seeds", type=int, default=default.seeds, help="of each setting (%(default)s)")
    parser.add_argument("--epochs", type=int, default=default.epochs, help="of a training (%(default)s)")


def _add_one_run(parser: Parser) -> None:
    default = one_run.Settings()
    _add_common(parser, "one_run")
    names = f"by name, or `seen` ({', '.join(SEEN)}; the default) or `kept_back` ({', '.join(KEPT_BACK)})"
    parser.add_argument("--tables", nargs="+", default=["seen"], help=names)
    parser.add_argument("--variants", action="store_true", help="other settings of the schemes than the default ones")
    parser.add_argument("--data", type=Path, default=default.data, help="folder of further tables (%(default)s)")
    parser.add_argument("--picture", type=Path, help="where to draw (one_run.png in the folder)")
    parser.add_argument("--seeds", type=int, default=default.seeds, help="of each table (%(default)s)")
    parser.add_argument("--steps", type=int, default=default.steps, help="of a training (%(default)s)")
    parser.add_argument("--checkpoints", type=int, default=default.checkpoints, help="of a training (%(default)s)")
    parser.add_argument("--batch", type=int, default=default.batch, help="rows in a step (%(default)s)")
    parser.add_argument("--width", type=int, default=default.width, help="units in a hidden layer (%(default)s)")
    parser.add_argument("--lr", type=float, default=default.lr, help="learning rate of Adam (%(default)s)")


def _add_pinn(parser: Parser) -> None:
    default = pinn.Settings()
    _add_common(parser, "pinn")
    parser.add_argument("--picture", type=Path, help="where to draw (pinn.png in the folder)")
    parser.add_argument("--seeds", type=int, default=default.seeds, help="of each method (%(default)s)")
    parser.add_argument("--steps", type=int, default=default.steps, help="of Adam (%(default)s)")
    parser.add_argument("--iterations", type=int, default=default.iterations, help="of L-BFGS (%(default)s)")
    parser.add_argument("--batch", type=int, default=default.batch, help="points in a step (%(default)s)")
    parser.add_argument("--lr", type=float, default=default.lr, help="of the first step of Adam (%(default)s)")
    parser.add_argument(
        "--measurements", type=int, default=default.measurements, help="of the error, by Adam (%(default)s)"
    )


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
