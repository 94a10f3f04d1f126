"""Measures what the library costs, each figure as a ratio to the plain way in the same run.

python scripts/benchmark.py                    # a training step under each scheme, and in other packages
python scripts/benchmark.py steps --terms 2 8 64
python scripts/benchmark.py conflicts          # a training step with a conflict settled at the branch
python scripts/benchmark.py penalties          # a penalty in each mode
python scripts/benchmark.py loop               # the training loop of scripts/train.py, beside plain PyTorch
python scripts/benchmark.py uncertainty        # effect of the initial log-variances on the error
"""

import argparse
from pathlib import Path

from lossbalance._utils.arguments import count, positive


def main() -> None:
    """Runs the benchmark that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    kinds = parser.add_subparsers(dest="kind")
    for kind, subject in (("steps", "under each scheme (the default)"), ("conflicts", "under each aggregator")):
        steps = kinds.add_parser(kind, help=f"a training step {subject}")
        steps.add_argument("--terms", type=_two_or_more, nargs="+", default=[2, 8, 32], help="numbers of terms")
        steps.add_argument("--rounds", type=count, default=40, help="steps to time of each kind")
        steps.add_argument("--device", type=_device, default="cpu", help="cpu, cuda")
    uncertainty = kinds.add_parser("uncertainty", help="log-variances that start at 0 and at the first losses")
    uncertainty.add_argument("--seeds", type=count, default=5, help="trainings of each kind")
    uncertainty.add_argument("--steps", type=count, default=500, help="steps of a training")
    uncertainty.add_argument("--lr", type=positive, default=0.01, help="learning rate")
    uncertainty.add_argument("--bikes", type=_bikes, help="hour.csv of the bike-sharing data, to try that too")
    penalties = kinds.add_parser("penalties", help="an L2 penalty in each mode, beside weight decay and autograd")
    penalties.add_argument("--rounds", type=count, default=40, help="steps to time of each kind")
    penalties.add_argument("--device", type=_device, default="cpu", help="cpu, cuda")
    loop = kinds.add_parser("loop", help="the training loop of scripts/train.py, beside the same in plain PyTorch")
    loop.add_argument("--rounds", type=count, default=9, help="trainings of each kind")
    loop.add_argument("--epochs", type=count, default=25, help="of a training")
    arguments = parser.parse_args()
    match arguments.kind:
        case "uncertainty":
            from benchmarks.uncertainty import benchmark_uncertainty

            benchmark_uncertainty(range(arguments.seeds), arguments.steps, arguments.lr, arguments.bikes)
            return
        case "conflicts":
            from benchmarks.conflicts import benchmark_conflicts

            benchmark_conflicts(arguments.terms, arguments.rounds, arguments.device)
            return
        case "penalties":
            from benchmarks.penalties import benchmark_penalties

            benchmark_penalties(rounds=arguments.rounds, device=arguments.device)
            return
        case "loop":
            from benchmarks.loop import benchmark_loop

            benchmark_loop(Path(__file__).parents[1] / "conf", arguments.epochs, arguments.rounds)
            return
        case None:
            arguments = parser.parse_args(["steps"])
    from benchmarks.steps import benchmark_steps

    benchmark_steps(arguments.terms, arguments.rounds, arguments.device)


def _two_or_more(text: str) -> int:
    if count(text) < 2:
        raise argparse.ArgumentTypeError(f"must be 2 or more, as one loss needs no weight, got {text!r}")
    return int(text)


def _bikes(text: str) -> Path:
    from benchmarks.uncertainty import read_bikes

    try:
        read_bikes(Path(text))
    except (OSError, ValueError, KeyError) as error:
        reason = f"{error}".strip().splitlines()[0]
        raise argparse.ArgumentTypeError(
            f"must be hour.csv of the bike-sharing data, got {text!r}: {reason}"
        ) from error
    return Path(text)


def _device(text: str) -> str:
    import torch

    try:
        torch.zeros((), device=text)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise argparse.ArgumentTypeError(f"must be a device of this machine, got {text!r}: {reason}") from error
    return text


if __name__ == "__main__":
    main()
