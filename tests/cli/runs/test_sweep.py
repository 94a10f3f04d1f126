"""Sweeps for real: tiny runs, in processes of their own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import OmegaConf, ValidationError

from lossbalance.cli.config.schema import register
from lossbalance.cli.runs.sweep import SweepFolder

ROOT = Path(__file__).parents[3]
TINY = [
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=1",
    "trainer.limit_val_batches=1",
    "test=false",
    "logger=none",
]


def sweep(folder, *arguments):
    """Starts a sweep as a person would; returns what came of it, and the summaries by the number of the job."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT}/tests/cli"}
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *arguments, *TINY]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    return done, {int(path.parent.name): json.loads(path.read_text()) for path in folder.rglob("summary.json")}


def die_once(folder, worker=False):
    """Has the first run that trains killed, or the worker that started it."""
    return f"+callbacks.die_once={{_target_:die_once.DieOnce,marker:{folder / 'died'},worker:{worker}}}"


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory):
    """A sweep of which one setting cannot be trained, and the same once more."""
    folder = tmp_path_factory.mktemp("spoiled")
    asked = ["-m", "loss=alpha", "alpha=0.7000000000000001,1.5", "seed=0,1"]
    return folder, sweep(folder, *asked), sweep(folder, *asked, "resume=true")


@pytest.mark.processes
def test_a_failed_run_spoils_nothing_but_the_exit_code(spoiled):
    _, (done, runs), _ = spoiled
    assert [run["status"] for run in runs.values()].count("completed") == 2
    assert done.returncode == 1
    assert "`alpha` must be a number in [0, 1], got 1.5" in done.stderr


@pytest.mark.processes
def test_a_sweep_ends_in_a_report_also_after_a_failure(spoiled):
    folder, (done, _), _ = spoiled
    page = Path(folder, re.search("The whole report: (.*)", done.stdout)[1]).read_text()
    assert "must be a number in [0, 1], got 1.5" in page
    assert "alpha=0.7<" in page


@pytest.mark.processes
def test_the_same_sweep_resumed_trains_only_what_is_missing(spoiled):
    folder, (_, before), (done, after) = spoiled
    assert len(list(folder.rglob("multirun.yaml"))) == 1
    assert [after[job] == before[job] for job in (0, 1)] == [True, True]  # seconds, too
    assert done.returncode == 1  # for the runs that failed are tried again


@pytest.mark.processes
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_run_that_is_killed_has_failed_and_takes_no_other_with_it(tmp_path, launcher):
    done, runs = sweep(tmp_path, "-m", "seed=0,1", f"hydra/launcher={launcher}", die_once(tmp_path))
    assert sorted(run["status"] for run in runs.values()) == ["completed", "failed"]
    assert "the process was killed" in Path(tmp_path, re.search("The whole report: (.*)", done.stdout)[1]).read_text()
    assert done.returncode == 1


@pytest.mark.processes
def test_a_worker_that_is_killed_takes_no_run_with_it(tmp_path):
    workers = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done, runs = sweep(tmp_path, "-m", "seed=0,1", die_once(tmp_path, worker=True), *workers)
    assert "A process was killed" in done.stdout
    assert [run["status"] for run in runs.values()] == ["completed"] * 2
    assert done.returncode == 0


@pytest.mark.processes
def test_submitit_runs_each_run_as_a_job_of_its_own(tmp_path):
    done, runs = sweep(tmp_path, "-m", "seed=0,1", "hydra/launcher=submitit_local")
    assert done.returncode == 0, done.stderr
    assert [run["status"] for run in runs.values()] == ["completed"] * 2
    assert "The whole report" in done.stdout


@pytest.mark.parametrize(
    ("name", "launcher"), [("submitit_local", "LocalLauncher"), ("submitit_slurm", "SlurmLauncher")]
)
def test_the_launchers_of_submitit_are_made_ready_under_their_own_names(name, launcher):
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", [f"hydra/launcher={name}", "threads=3"], return_hydra_config=True)
    ready = config.hydra.launcher
    assert ready._target_.endswith(launcher)
    assert ready.cpus_per_task == (3 if launcher == "SlurmLauncher" else None)
    with pytest.raises(ValidationError):
        ready.timeout_min = "an hour"


@pytest.fixture
def jobs(tmp_path):
    """Returns the runs that a sweep would start."""

    class Recorder:
        def launch(self, overrides, initial_job_idx):
            self.overrides = overrides
            return []

    def jobs(experiment, *arguments):
        register()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose(
                "train", [f"experiment={experiment}", f"hydra.sweep.dir={tmp_path}"], return_hydra_config=True
            )
            HydraConfig.instance().set_config(config)
            sweeper = Plugins.instance()._instantiate(config.hydra.sweeper)
            loader = GlobalHydra.instance().config_loader()
            sweeper.hydra_context, sweeper.config = HydraContext(loader, None), config
            sweeper.launcher = Recorder()
            sweeper.sweep(list(arguments))
        return [dict(override.split("=", 1) for override in job) for job in sweeper.launcher.overrides]

    return jobs


def test_alpha_sweep_has_a_linear_and_a_log_grid(jobs):
    alphas = {float(job["alpha"]) for job in jobs("alpha_sweep")}
    assert {0.0, 0.1, 0.5, 1.0, 1e-6, 1e-4} <= {float(f"{alpha:.10g}") for alpha in alphas}


def test_alpha_cv_trains_every_alpha_on_every_fold(jobs):
    runs = jobs("alpha_cv")
    assert {job["fold"] for job in runs} == set("01234")
    assert len(runs) == 5 * len({job["alpha"] for job in runs})


def test_compare_schemes_has_every_scheme_of_the_folder_that_needs_no_tuning(jobs):
    runs = jobs("compare_schemes", "seed=0")
    there = {path.stem for path in (ROOT / "conf" / "loss").glob("*.yaml")} - {"fixed", "scalarizer"}
    assert {job["loss"] for job in runs} == there
    assert all(("alpha" in job) == (job["loss"] == "alpha") for job in runs)
    assert {"0", "1"} < {job.get("alpha") for job in runs}  # each term alone


def test_penalty_grid_has_every_normalization_at_every_strength_and_no_penalty(jobs):
    runs = jobs("penalty_grid", "seed=0")
    scales = {(job["penalty.normalization"], job["penalty.strength"]) for job in runs if job["penalty"] == "l2"}
    assert len(scales) == 4 * 6
    assert len(runs) == 1 + 4 * 6


def test_the_command_line_replaces_what_an_experiment_sweeps(jobs):
    runs = jobs("alpha_sweep", "alpha=0.1,0.2", "seed=7")
    assert runs == [{"alpha": "0.1", "seed": "7"}, {"alpha": "0.2", "seed": "7"}]


def test_resume_finds_the_last_sweep_that_was_asked_for_with_the_same_words(tmp_path):
    def asked(name, *words):
        overrides = {"task": list(words), "hydra": []}
        hydra = {"sweep": {"dir": str(tmp_path / name)}, "overrides": overrides}
        return OmegaConf.create({"resume": "resume=true" in words, "hydra": hydra})

    for name, alpha in (("1", "alpha=0,1"), ("2", "alpha=0,1"), ("3", "alpha=0.5")):
        (tmp_path / name).mkdir()
        OmegaConf.save(asked(name, alpha), tmp_path / name / "multirun.yaml")
    config = asked("4", "alpha=0,1", "resume=true")

    SweepFolder().on_multirun_start(config)

    assert SweepFolder.current == tmp_path / "2"
    assert config.hydra.sweep.dir == str(tmp_path / "2")


@pytest.mark.parametrize(
    ("experiment", "key", "value"), [("compare_schemes", "weight_sum", 1), ("alpha_cv", "folds", 5)]
)
def test_an_experiment_replaces_the_defaults(experiment, key, value):
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert compose("train", [f"experiment={experiment}"])[key] == value
