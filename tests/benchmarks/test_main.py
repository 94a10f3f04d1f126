import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark.py"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["steps", "--terms", "2", "0"], "argument --terms: must be a whole number, 1 or more, got '0'"),
        (
            ["steps", "--terms", "1", "--rounds", "1"],
            "argument --terms: must be 2 or more, as one loss",
        ),
        (["uncertainty", "--lr", "nan"], "argument --lr: must be a positive, finite number, got 'nan'"),
        (
            ["uncertainty", "--bikes", "nope.csv"],
            "argument --bikes: must be hour.csv of the bike-sharing data",
        ),
        (["penalties", "--rounds", "-1"], "argument --rounds: must be a whole number, 1 or more, got '-1'"),
        (["steps", "--device", "cudo"], "argument --device: must be a device of this machine, got 'cudo'"),
    ],
)
def test_a_wrong_value_is_answered_with_what_must_hold(words, message):
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
