import time

import pytest

from hydra_plugins.lossbalance_grids import write_plan
from lossbalance._utils.warn import warn_about, warn_user
from lossbalance.cli.runs.progress import format_remaining, record_end, record_start

JOBS = [["task=raw_pixels", "loss=equal", "seed=0"], ["task=raw_pixels", "loss=equal", "seed=1"]]
DONE = {"status": "completed", "objective": {"name": "val/main/accuracy", "value": 0.86123}, "seconds": 9.2}


@pytest.fixture(autouse=True)
def _forget():
    yield
    warn_about("")


def end(folder, job, record, written=None):
    record_end(folder, job, record, time.time() if written is None else written)


def test_each_run_that_ends_takes_one_line(tmp_path, capsys):
    write_plan(tmp_path, JOBS)
    record_start(tmp_path, JOBS[0])
    end(tmp_path, JOBS[0], DONE)
    record_start(tmp_path, JOBS[1])
    end(tmp_path, JOBS[1], {"status": "failed", "message": "boom\nbang", "seconds": 1.0})
    assert capsys.readouterr().out.splitlines() == [
        f"2 runs, in {tmp_path}",
        "1/2  seed=0  val/main/accuracy 0.8612  9 s",
        "2/2  seed=1  failed: boom  1 s",
    ]


def test_the_time_that_is_left_is_that_of_the_runs_to_come(tmp_path, capsys, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "time", lambda: now)
    write_plan(tmp_path, JOBS * 5)
    record_start(tmp_path, JOBS[0])
    now = 1060.0
    end(tmp_path, JOBS[0], DONE)
    assert capsys.readouterr().out.endswith("(9 min left)\n")
    for _ in range(2):
        record_start(tmp_path, JOBS[0])  # two at once, half done
    now = 1120.0
    end(tmp_path, JOBS[0], DONE)
    assert capsys.readouterr().out.endswith("(6 min left)\n")  # 7.5 of 10 at 2.5 in two minutes


def test_a_run_that_was_done_before_costs_no_time(tmp_path, capsys):
    write_plan(tmp_path, JOBS)
    record_start(tmp_path, JOBS[0])
    end(tmp_path, JOBS[0], DONE, written=1.0)
    assert "1/2  seed=0  val/main/accuracy 0.8612  done before\n" in capsys.readouterr().out


def test_a_single_run_has_no_line(tmp_path, capsys):
    record_start(tmp_path, JOBS[0])
    end(tmp_path, JOBS[0], DONE)
    assert capsys.readouterr().out == ""


def test_a_warning_says_which_run_it_is_about(tmp_path):
    write_plan(tmp_path, JOBS)
    record_start(tmp_path, JOBS[1])
    with pytest.warns(UserWarning, match=r"^seed=1: `a` is wrong$"):
        warn_user("`a` is wrong")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, ""), (42.4, "(42 s left)"), (360, "(6 min left)"), (9000, "(2.5 h left)"), (86400, "(24 h left)")],
)
def test_the_time_that_is_left_is_rounded(seconds, text):
    assert format_remaining(seconds) == text
