"""Sweeps on engines that exist, started on this machine: ``make test-cluster`` installs what they need."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.cli.search.test_storage import WORKERS, open_at_once
from tests.cluster import postgresql, slurm

ROOT = Path(__file__).parents[2]
RUNS = int(os.environ.get("LOSSBALANCE_CLUSTER_RUNS", "24"))
RAY = ROOT / ".venv-ray" / "bin" / "python"
TINY = [
    *["trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "test=false"],
    *["logger=none", "callbacks=none"],
]
pytestmark = pytest.mark.skipif(
    os.environ.get("LOSSBALANCE_CLUSTER") != "1", reason="starts clusters on this machine: run `make test-cluster`"
)
needs_slurm = pytest.mark.skipif(bool(slurm.missing()), reason=f"SLURM lacks {slurm.missing()}")
needs_postgresql = pytest.mark.skipif(
    postgresql.programs() is None or importlib.util.find_spec("psycopg") is None,
    reason="PostgreSQL, psycopg or root is missing",
)
needs_ray = pytest.mark.skipif(not RAY.exists(), reason=f"there is no Ray in {RAY.parents[1]}")


def start(folder, *overrides, python=sys.executable, environment=None):
    """Starts a sweep of single runs, one for each seed."""
    folder.mkdir()
    command = [str(python), str(ROOT / "scripts" / "train.py"), "-m", f"seed=range({RUNS})", *TINY, *overrides]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | (environment or {})
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=variables, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def finish(sweep, folder):
    """Returns the output of a sweep, and what each run came to, by its seed."""
    output, _ = sweep.communicate(timeout=3600)
    assert sweep.returncode == 0, output
    assert len(list(folder.rglob("report.html"))) == 1
    runs = [json.loads(path.read_text()) for path in folder.rglob("summary.json")]
    assert [run["status"] for run in runs] == ["completed"] * RUNS
    return output, {run["seed"]: (run["metrics"], run["weights"]) for run in runs}


def kill_a_worker(pattern, killed):
    """Kills the first process whose command line matches, once a run is under way."""
    for _ in range(3000):
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if re.search(pattern, words):
                time.sleep(1)
                os.kill(int(path.parent.name), signal.SIGKILL)
                killed.append(words)
                return
        time.sleep(0.1)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The sweep on this machine, by Hydra's own launcher."""
    folder = tmp_path_factory.mktemp("local") / "sweep"
    return finish(start(folder, "trainer=ddp"), folder)[1]


@needs_slurm
def test_a_sweep_on_slurm_of_runs_of_two_processes_survives_a_killed_job(tmp_path, local):
    with slurm.cluster(tmp_path, cpus=4) as environment:
        sweep = start(
            tmp_path / "sweep",
            *["trainer=ddp", "hydra/launcher=submitit_slurm", "hydra.launcher.mem_gb=1"],
            environment=environment,
        )
        killed: list[str] = []
        threading.Thread(target=kill_a_worker, args=(r"submitit\.core\._submit", killed), daemon=True).start()
        output, runs = finish(sweep, tmp_path / "sweep")
    assert killed
    assert "resuming with the missing runs" in output
    assert runs == local


@needs_ray
def test_a_sweep_on_ray_survives_a_killed_worker(tmp_path, local):
    sweep = start(tmp_path / "sweep", "trainer=ddp", "hydra/launcher=ray", python=RAY)
    killed: list[str] = []
    threading.Thread(target=kill_a_worker, args=(r"^ray::", killed), daemon=True).start()
    _, runs = finish(sweep, tmp_path / "sweep")
    assert killed
    assert runs == local


@needs_postgresql
def test_eight_processes_open_a_fresh_database_of_a_server_at_once(tmp_path):
    with postgresql.server(tmp_path) as url:
        assert open_at_once(url, tmp_path / "folder") == [0] * WORKERS


@needs_postgresql
def test_two_searches_share_a_study_on_a_server(tmp_path):
    words = ["loss=alpha", "alpha=interval(0,1)", "trainer=cpu", *TINY, "--trials", "4"]
    command = [sys.executable, "-m", "lossbalance", "search", *words]
    with postgresql.server(tmp_path) as url:
        variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        options = {"cwd": tmp_path, "env": variables, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        searches = [subprocess.Popen([*command, "--storage", url], text=True, **options) for _ in range(2)]
        outputs = [search.communicate(timeout=1200)[0] for search in searches]
    assert [search.returncode for search in searches] == [0, 0], outputs
    assert len(list(tmp_path.rglob("summary.json"))) >= 4
