"""Tests on a pretended accelerator, with and without float64."""

from collections.abc import Iterator

import pytest
from torch.utils import backend_registration

if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):  # before torch 2.8
    collect_ignore_glob = [
        "device.py",
        "test_device.py",
        "test_loop.py",
        "test_trainer.py",
        "test_command_line.py",
        "test_benchmarks.py",
        "test_conflicts.py",
    ]


@pytest.fixture(params=[True, False], ids=["float64", "no float64"])
def device(request: pytest.FixtureRequest) -> Iterator[object]:
    """Gives the accelerator, which counts."""
    from tests.accelerator.device import pretend

    with pretend(float64=request.param) as device:
        yield device
