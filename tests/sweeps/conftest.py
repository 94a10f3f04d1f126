import itertools

import pytest

from lossbalance.sweeps.comparison import Comparison
from lossbalance.sweeps.runs import read_runs
from tests.sweeps.synthetic import write_alpha_sweep, write_run


@pytest.fixture
def compare(tmp_path):
    def compare(scores, metric="val/main/accuracy", lower=False):
        return Comparison(read_runs([write_alpha_sweep(tmp_path, scores)]), metric, lower)

    return compare


@pytest.fixture
def compare_penalties(tmp_path):
    """Compares an L2 penalty of two strengths with no penalty, under the schemes that are named."""

    def compare(scores, schemes=("equal",)):
        runs = itertools.product(schemes, scores.items(), range(3))
        for job, (loss, (strength, mean), seed) in enumerate(runs):
            penalty = {"penalty": "l2", "penalty.strength": strength} if strength else {"penalty": "none"}
            write_run(tmp_path / str(job), mean + 0.01 * (seed - 1), seed, choices={"loss": loss} | penalty)
        return Comparison(read_runs([tmp_path]), "val/main/accuracy", False)

    return compare
