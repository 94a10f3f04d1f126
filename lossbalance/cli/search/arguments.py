"""Arguments of ``lossbalance search``: its help needs no Optuna."""

import argparse
from collections.abc import Sequence

from lossbalance._utils.arguments import count, positive

DEFAULT_SPACE = (
    "loss=equal,alpha,uncertainty,gradnorm,gradbalance",
    "alpha=tag(log,interval(1e-6,1))",
    "penalty=none,l2",
    "penalty.strength=tag(log,interval(1e-6,0.1))",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``lossbalance search`` with these arguments, by default those of this process; returns the exit code."""
    given = _parser().parse_intermixed_args(arguments)
    from lossbalance.cli.search.command import search  # imports Optuna

    return search(given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lossbalance search",
        description="Searches settings with Optuna. Started twice, two processes share one study.",
        epilog="example: lossbalance search loss=alpha 'alpha=tag(log,interval(1e-6,1))' task=raw_pixels --trials 50",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=(
        "as for `lossbalance train`; a sweep there is a search space here: key=a,b and key=interval(0,1), "
        f"key=range(1,5), key=tag(log,interval(1e-6,1)). By default: {' '.join(DEFAULT_SPACE)}"
    ))  # fmt: skip
    parser.add_argument("--trials", type=count, default=50, help=(
        "total number of trials of the study (50); running ones are finished"
    ))  # fmt: skip
    parser.add_argument("--minutes", type=positive, help="stop after so many minutes")
    parser.add_argument("--trade-off", nargs=2, default=(), metavar=("X", "Y"), help="search their Pareto front")
    parser.add_argument("--study", metavar="NAME", help=(
        "its name, and that of its folder below searches/; by default derived from the search: the same command resumes"
    ))  # fmt: skip
    parser.add_argument("--storage", help="a file for Optuna's journal, or any storage URL; by default in the folder")
    return parser
