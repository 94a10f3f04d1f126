"""``task=table``: a file with columns, several targets, labels missing."""

import json
import subprocess
from pathlib import Path

import pytest
from hydra.errors import HydraException

from lossbalance.cli.explain import explain
from tests.cli.in_process import run_here
from tests.cli.program import command, surroundings
from tests.tasks.table.tables import TARGETS, write

pytestmark = pytest.mark.filterwarnings("ignore:.*dominates the other terms")
WORDS = ["task=table", f"task.targets=[{','.join(TARGETS)}]", "task.max_epochs=4", "loss=uncertainty"]
DATA = Path(__file__).parents[4] / "shared" / "data"


def test_a_table_is_trained_and_summed_up(tmp_path):
    summary = run_here(tmp_path / "run", *WORDS, f"task.path={write(tmp_path)}")
    assert summary["terms"] == TARGETS
    assert summary["objective"]["name"] == "val/score"
    assert summary["objective"]["value"] == summary["metrics"]["val/score"]
    for stage in ("val", "test"):
        for name in ("price/r2", "sold/auc", "grade.of/accuracy", "loss/price", "loss/sold", "loss/grade.of"):
            assert isinstance(summary["metrics"][f"{stage}/{name}"], float)
    assert summary["metrics"]["val/loss/price"] > 1e6  # in the target's own unit, squared
    assert 0.01 < summary["weights"]["price"] / summary["weights"]["sold"] < 100  # of standardized numbers


def test_numbers_are_trained_raw_on_request(tmp_path):
    settings = [f"task.path={write(tmp_path)}", "task.max_epochs=1", "task.standardize=false"]
    summary = run_here(tmp_path / "run", *WORDS, *settings)
    assert summary["weights"]["price"] < 1e-6 * summary["weights"]["sold"]


@pytest.mark.filterwarnings("ignore:The limit of")
def test_a_limit_is_in_the_unit_of_the_target(tmp_path):
    def train(name, *settings):
        limits = ["loss=constrained", "loss.limits=null", "+loss.limits={price: 100}", *settings]
        paths = [f"task.path={write(tmp_path)}", "task.max_epochs=2"]
        return run_here(tmp_path / name, *[word for word in WORDS if "=unc" not in word], *paths, *limits)

    standardized, raw = train("standardized"), train("raw", "task.standardize=false")
    variance = standardized["weights"]["price"] / raw["weights"]["price"]  # a multiplier is one over the limit's unit
    assert variance == pytest.approx(20_000**2, rel=0.5)


@pytest.mark.parametrize("words", [["conflict=pcgrad"], ["penalty=l2", "penalty.as_term=true"]])
def test_conflicts_and_penalties_are_those_of_other_tasks(tmp_path, words):
    plain = run_here(tmp_path / "plain", *WORDS, f"task.path={write(tmp_path)}", "task.max_epochs=1")
    other = run_here(tmp_path / "other", *WORDS, f"task.path={write(tmp_path)}", "task.max_epochs=1", *words)
    assert other["status"] == "completed"
    assert other["metrics"] != plain["metrics"]


def test_a_table_that_goes_on_ends_as_one_that_never_stopped(tmp_path):
    asked = [*WORDS, f"task.path={write(tmp_path)}"]
    straight = run_here(tmp_path / "straight", *asked)
    run_here(tmp_path / "stopped", *asked, "task.max_epochs=2")
    resumed = run_here(tmp_path / "stopped", *asked, f"ckpt_path={tmp_path}/stopped/checkpoints/last.ckpt")
    assert resumed["metrics"] == straight["metrics"]
    assert resumed["weights"] == straight["weights"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            [*WORDS, "task.path={path}", "conflict=mgda", "penalty=l2", "penalty.as_term=true"],
            "`penalty.as_term` must be false where `conflict` combines gradients, got true",
        ),
        (
            ["task=table"],
            "['task.path', 'task.targets'] must be given: task.path=... task.targets=...; `task=table --help` ",
        ),
        (
            ["task=table", "task.path={path}", "task.targets=price"],
            "`task.targets` must be a list of names, got",
        ),
    ],
)
def test_what_is_left_out_is_told(tmp_path, monkeypatch, asked, message):
    monkeypatch.delenv("LOSSBALANCE_EXPLAIN", raising=False)
    path = write(tmp_path)
    with pytest.raises((ValueError, TypeError, HydraException)) as refusal:
        run_here(tmp_path, *[word.format(path=path) for word in asked])
    assert message in explain(refusal.value)


@pytest.mark.processes
def test_a_sweep_over_a_table_ends_in_a_report(tmp_path):
    write(tmp_path)
    done = subprocess.run(
        command("-m", *WORDS, "task.path=houses.csv", "loss=equal,uncertainty", "fold=0,1"),
        capture_output=True, text=True, cwd=tmp_path, env=surroundings(), timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (page,) = tmp_path.glob("multirun/table/*/report.html")
    assert "loss=uncertainty" in page.read_text()
    summaries = [json.loads(path.read_text()) for path in tmp_path.rglob("summary.json")]
    assert {(summary["loss"], summary["fold"]) for summary in summaries} == {
        (loss, fold) for loss in ("equal", "uncertainty") for fold in (0, 1)
    }


@pytest.mark.skipif(not DATA.is_dir(), reason="the data are not there")
def test_casual_and_registered_riders_are_told_apart_by_the_hour(tmp_path):
    path = DATA / "bike_sharing" / "hour.csv"
    asked = ["task=table", f"task.path={path}", "task.targets=[casual,registered]", "task.ignore=[cnt,instant,dteday]"]
    summary = run_here(tmp_path, *asked, "loss=uncertainty", "task.max_epochs=6")
    assert summary["metrics"]["val/casual/r2"] > 0.6
    assert summary["metrics"]["val/registered/r2"] > 0.6
