import matplotlib.image
import pytest

from lossbalance.sweeps.comparison import Comparison
from lossbalance.sweeps.report import write_report
from lossbalance.sweeps.runs import read_runs
from lossbalance.sweeps.sparsity import draw_zeros, find_zeros
from tests.sweeps.synthetic import write_run

SCORES = {0: 0.80, 0.01: 0.90, 0.1: 0.895, 1: 0.5}
ZEROS = {0: 0, 0.01: 4, 0.1: 6, 1: 10}


@pytest.fixture
def sweep(tmp_path):
    def sweep(zeros):
        for job, (strength, seed) in enumerate((strength, seed) for strength in SCORES for seed in range(3)):
            metrics = {"val/main/accuracy": SCORES[strength] + 0.01 * seed, "zeros/l1": zeros[strength] + (seed == 2)}
            choices = {"penalty": "l1", "penalty.strength": strength}
            write_run(tmp_path / str(job), metrics["val/main/accuracy"], seed, choices=choices, metrics=metrics)
        return tmp_path

    return sweep


def test_zeros_are_drawn_against_the_strength_with_the_one_standard_error_choice_ringed(sweep):
    comparison = Comparison(read_runs([sweep(ZEROS)]), "val/main/accuracy", False)

    upper, lower = draw_zeros(comparison).axes

    (curve, ring) = (line for line in lower.get_lines())
    assert curve.get_xdata().tolist() == list(SCORES)
    assert curve.get_ydata().tolist() == pytest.approx([count + 1 / 3 for count in ZEROS.values()])
    assert (ring.get_xdata().tolist(), ring.get_ydata().tolist()) == ([0.1], pytest.approx([19 / 3]))
    assert ring.get_label() == "one standard error: 0.1, 6.33 zeros"
    assert upper.get_lines()[0].get_ydata().tolist() == pytest.approx([score + 0.01 for score in SCORES.values()])


def test_the_report_has_the_picture_where_something_is_zero(sweep):
    folder = sweep(ZEROS)
    write_report([folder])
    assert matplotlib.image.imread(folder / "zeros.png").shape[0] > 300
    assert "exactly zero" in (folder / "report.html").read_text()


def test_a_sweep_without_zeros_has_no_such_picture(sweep):
    runs = read_runs([sweep(dict.fromkeys(SCORES, -1))])
    assert find_zeros(Comparison(runs, "val/main/accuracy", False)) is None
