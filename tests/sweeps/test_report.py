import csv
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import pandas as pd
import pytest

from lossbalance.sweeps.report import ReportOptions, main, write_report
from tests.sweeps.synthetic import write_alpha_sweep, write_run

SCORES = {alpha / 10: [0.9 - (alpha / 10 - 0.3) ** 2 + 0.01 * seed for seed in range(3)] for alpha in range(0, 11)}


@pytest.fixture
def sweep(tmp_path):
    return write_alpha_sweep(tmp_path / "sweep", SCORES)


class Tags(HTMLParser):
    """Collects each tag with its attributes, and the text of each cell."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.cells = [], []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")
            self._inside = True

    def handle_endtag(self, tag):
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self._inside:
            self.cells[-1] += data


def test_a_sweep_ends_in_a_page_two_tables_and_pictures(sweep):
    said = write_report([sweep])

    pictures = {f"{name}.{kind}" for name in ("trade_off", "by_alpha", "differences") for kind in ("png", "svg")}
    assert {path.name for path in sweep.iterdir() if path.is_file()} == {
        "report.html", "results.csv", "runs.csv", *pictures,
    }  # fmt: skip
    assert re.sub("</?code>", "`", (sweep / "report.html").read_text()).count(said) == 1
    for path in sweep.glob("*.png"):
        assert matplotlib.image.imread(path).shape[0] > 300


def test_the_table_of_results_has_a_row_for_each_setting(sweep):
    write_report([sweep])

    table = pd.read_csv(sweep / "results.csv", index_col="setting")

    assert table.index[0] == "alpha=0.3"
    assert len(table) == 11
    row = table.loc["alpha=0.7"]
    assert row[["n", "val/main/accuracy mean", "val/main/accuracy sd"]].tolist() == pytest.approx([3, 0.75, 0.01])
    assert row[["vs baseline: difference", "weight aux", "seconds"]].tolist() == pytest.approx([-0.12, 0.7, 2.0])
    assert len(pd.read_csv(sweep / "runs.csv")) == 33


def test_the_page_stands_alone(sweep):
    write_report([sweep])
    page = (sweep / "report.html").read_text()
    assert "stroke: var(--mark)" in page  # the colour of the data is the page's own
    for tag, attributes in Tags(page).tags:
        assert tag not in ("link", "iframe", "object", "base")
        for name in ("src", "href", "xlink:href", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)


def test_names_that_come_from_configs_are_escaped(tmp_path):
    evil = "<script>alert('x')</script> $x_1^$ & `b`"
    for job, alpha in enumerate([0.1, 0.2, 0.3]):
        write_run(tmp_path / str(job), alpha, choices={"alpha": alpha, "note": evil}, metrics={evil: 1.0})
    write_run(tmp_path / "7", 0.1, seed=7, status="failed", message=evil, choices={"note": f"{evil}2"})

    write_report([tmp_path], options=ReportOptions(trade_off=["val/main/accuracy", evil]))

    page = Tags((tmp_path / "report.html").read_text())
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert page.cells.count(evil) == 2  # the heading of the metric, the message


def test_a_failed_run_is_shown_with_its_message(sweep):
    write_run(sweep / "90", 0.0, seed=3, status="failed", message="CUDA out of memory", choices={"alpha": 0.9})
    write_report([sweep])
    page = Tags((sweep / "report.html").read_text())
    assert "CUDA out of memory" in page.cells
    assert pd.read_csv(sweep / "results.csv", index_col="setting").loc["alpha=0.9", ["n", "failed"]].tolist() == [3, 1]


def test_runs_of_different_tasks_are_not_compared(tmp_path):
    write_alpha_sweep(tmp_path / "digits", SCORES)
    for job in range(2):
        write_run(tmp_path / "pixels" / str(job), 0.99, seed=job, choices={"task": "raw_pixels", "alpha": 0.5})

    first, second = write_report([tmp_path / "digits", tmp_path / "pixels"], tmp_path / "out").split("\n")

    assert first.startswith("Use `alpha=0.3`")
    assert second.startswith("Only one setting")
    assert (tmp_path / "out" / "two_digits_trade_off.png").exists()


def test_tasks_with_other_metrics_have_a_part_of_the_page_each(tmp_path):
    write_alpha_sweep(tmp_path / "digits", SCORES)
    for job, (alpha, seed) in enumerate((alpha, seed) for alpha in (0.1, 0.5, 0.9) for seed in range(2)):
        summary = {"terms": ["casual", "registered"], "objective": {"name": "val/r2", "value": alpha}}
        folder = write_run(tmp_path / "bikes" / str(job), alpha, seed, choices={"task": "table", "alpha": alpha})
        metrics = {"val/r2": alpha, "val/casual/r2": alpha, "val/registered/r2": 1 - alpha}
        whole = json.loads((folder / "summary.json").read_text()) | summary | {"metrics": metrics}
        (folder / "summary.json").write_text(json.dumps(whole))

    write_report([tmp_path])

    page = (tmp_path / "report.html").read_text()
    assert [part.split("<")[0] for part in page.split("<h2>")[1:] if "Settings" not in part] == ["table", "two_digits"]
    bikes, digits = re.findall("<section>.*?</section>", page, re.DOTALL)
    assert "val/main/accuracy" not in bikes
    assert "val/r2" not in digits
    for task in ("table", "two_digits"):
        assert (tmp_path / f"{task}_trade_off.png").exists()


def test_no_cell_of_a_table_is_a_formula(tmp_path):
    for job, note in enumerate(["=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "-0.5"]):
        write_run(tmp_path / str(job), -0.1 * (job + 1), choices={"note": note}, metrics={"=evil": 1.0})
    write_run(tmp_path / "9", 0.0, seed=9, choices={"note": "x"}, status="failed", message="=HYPERLINK(1)")

    write_report([tmp_path], options=ReportOptions(metric="val/main/accuracy"))

    for name in ("results.csv", "runs.csv"):
        rows = list(csv.reader(io.StringIO((tmp_path / name).read_text())))
        cells = [cell for row in rows for cell in row]
        risky = [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
        assert all(float(cell) < 0 for cell in risky)  # numbers stay numbers
        assert any(cell.endswith("=cmd|' /C calc'!A0") for cell in cells)
        assert any(cell.startswith("'=evil") for cell in rows[0])
    assert pd.read_csv(tmp_path / "results.csv")["val/main/accuracy mean"].min() == -0.6


def test_a_margin_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`margin` must be a finite number, 0 or more, in the unit of the metric, got"):
        ReportOptions(margin=-1.0)


def test_the_runs_say_whether_their_objective_is_to_be_small(tmp_path):
    for job, (alpha, seed) in enumerate((alpha, seed) for alpha in (0.1, 0.2) for seed in range(2)):
        objective = {"name": "val/main/accuracy", "value": alpha, "direction": "minimize"}
        write_run(tmp_path / str(job), alpha, seed, objective=objective, choices={"alpha": alpha})
    assert write_report([tmp_path]).startswith("Use `alpha=0.1`: it has the lowest")
    assert "the highest" in write_report([tmp_path], options=ReportOptions(maximize=["val/main/accuracy"]))


def test_any_metric_can_rank_the_settings(sweep):
    assert "the lowest val/loss/main" in write_report([sweep], options=ReportOptions(metric="val/loss/main"))


def test_the_command_line_answers_what_cannot_be_reported_with_one_message(tmp_path, capsys, sweep):
    assert main([str(tmp_path / "nothing")]) == 1
    assert capsys.readouterr().err.startswith("error: no such folder")
    assert main([str(sweep), "--metric", "val/accuracy"]) == 1
    assert "those that exist: ['val/aux/accuracy', 'val/loss/main', 'val/main/accuracy']" in capsys.readouterr().err
    assert main([str(sweep), "--out", "/dev/null/report"]) == 1
    assert "`--out` must be a folder that can be written, got '/dev/null/report'" in capsys.readouterr().err
    (sweep / "3" / "summary.json").write_text("{")
    assert main([str(sweep)]) == 0
    assert str(sweep / "report.html") in capsys.readouterr().out


def test_a_set_of_runs_in_which_none_completed_is_reported_all_the_same(tmp_path):
    write_run(tmp_path / "0", 0.1, status="failed", message="boom")
    summary = json.loads((tmp_path / "0" / "summary.json").read_text()) | {"metrics": {}, "weights": {}}
    (tmp_path / "0" / "summary.json").write_text(json.dumps(summary))
    assert write_report([tmp_path]).startswith("No run came to its end")
    assert "boom" in (tmp_path / "report.html").read_text()


def test_the_report_needs_no_torch():
    code = "import sys, lossbalance.sweeps.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_thousands_of_runs_make_one_small_page(tmp_path):
    for job in range(2000):
        write_run(tmp_path / str(job), 0.5 + job % 7 / 100, job % 5, choices={"alpha": job // 5 / 400})
    write_report([tmp_path])
    assert Path(tmp_path / "report.html").stat().st_size < 5e6


def test_two_files_and_two_sets_of_targets_are_two_tasks(tmp_path):
    for job, (path, target) in enumerate([("a.csv", "y"), ("b.csv", "y"), ("a.csv", "z")]):
        choices = {"task": "table", "task.path": f"/data/{path}", "task.targets": [target]}
        write_run(tmp_path / str(job), 0.5, choices=choices)

    said = write_report([tmp_path]).split("\n")

    assert len(said) == 3
    assert all(sentence.startswith("Only one setting") for sentence in said)
    assert "table b.csv" in (tmp_path / "report.html").read_text()


def test_a_metric_that_one_task_lacks_is_refused_with_those_that_it_has(tmp_path, capsys):
    write_run(tmp_path / "a", 0.5, choices={"task": "two_digits"}, metrics={"val/own": 1.0})
    write_run(tmp_path / "b", 0.5, choices={"task": "pinn"})

    assert main([str(tmp_path), "--metric", "val/own"]) == 1

    assert "no run of 'pinn' has the metric 'val/own'" in capsys.readouterr().err


def test_a_metric_is_not_small_and_large(tmp_path, capsys):
    write_run(tmp_path / "a", 0.5)
    assert main([str(tmp_path), "--minimize", "m", "--maximize", "m"]) == 1
    assert "`minimize` and `maximize` must name different metrics, got ['m'] in both" in capsys.readouterr().err


def test_the_page_says_what_was_trained_and_each_picture_what_it_shows(sweep):
    write_report([sweep])
    assert "<title>two_digits: report of lossbalance</title>" in (sweep / "report.html").read_text()
    assert all("<title>" in path.read_text() for path in sweep.glob("*.svg"))
