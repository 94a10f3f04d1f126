"""The benchmarks on an accelerator."""

import io

from rich.console import Console

from benchmarks.penalties import benchmark_penalties
from benchmarks.steps import benchmark_steps
from tests.accelerator.device import NAME


def test_the_steps_of_every_scheme_are_timed(device):
    out = io.StringIO()
    ratios = benchmark_steps(counts=[2], rounds=1, device=NAME, console=Console(file=out, width=120))
    assert ratios["GradNorm"][2] > 0
    assert f"({NAME})" in " ".join(out.getvalue().split())


def test_the_penalties_of_every_mode_are_timed(device):
    console = Console(file=io.StringIO())
    added = benchmark_penalties(tensors=2, size=500, rounds=1, device=NAME, console=console)
    assert {"mode=loss", "mode=gradient", "mode=decoupled"} < added.keys()
