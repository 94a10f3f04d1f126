"""A run of several processes within a sweep is a program of its own."""

import sys

import pytest
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from lossbalance.cli.runs import program
from tests.cli.program import configurations
from tests.cli.runs.test_sweep import sweep


def configure(mode, *overrides):
    with configurations():
        config = compose("train", [*overrides, f"hydra.mode={mode}"], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    return config


@pytest.mark.parametrize(
    ("mode", "overrides", "environment", "expected"),
    [
        (RunMode.MULTIRUN, ["trainer=ddp"], {}, True),
        (RunMode.MULTIRUN, ["trainer.devices=auto"], {}, True),
        (RunMode.MULTIRUN, [], {}, False),
        (RunMode.RUN, ["trainer=ddp"], {}, False),
        (RunMode.MULTIRUN, ["trainer=ddp"], {"SLURM_NTASKS": "2"}, False),
        (RunMode.MULTIRUN, ["trainer=ddp"], {"SLURM_NTASKS": "1"}, True),
        (RunMode.MULTIRUN, ["trainer=ddp"], {"LOCAL_RANK": "0"}, False),
    ],
)
def test_a_run_of_several_processes_in_a_sweep_needs_a_program(monkeypatch, mode, overrides, environment, expected):
    for name in ("SLURM_NTASKS", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert program.needs_program(configure(mode.name, *overrides)) == expected


def test_the_program_is_a_single_run_with_the_overrides_of_the_run(tmp_path):
    configure("MULTIRUN", "trainer=ddp", "seed=3", "resume=true", "+callbacks.pruning.metric=x")
    assert program.command(tmp_path) == [
        *[sys.executable, "-m", "lossbalance", "train", "trainer=ddp", "seed=3"],
        *[f"hydra.run.dir='{tmp_path}'", "hydra.output_subdir=null"],
    ]


def test_the_program_starts_its_ranks_itself_in_a_job_of_a_cluster():
    environment = {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "7", "MASTER_PORT": "1234", "PATH": "/bin"}
    assert program._environment(environment) == {"PATH": "/bin"}


@pytest.mark.processes
def test_a_sweep_trains_a_run_of_two_processes_and_prints_its_result_once(tmp_path):
    done, runs = sweep(tmp_path, "-m", "trainer=ddp", "seed=0", "callbacks=none")
    assert done.returncode == 0, done.stderr
    assert [run["status"] for run in runs.values()] == ["completed"]
    assert done.stdout.count("The whole report") == done.stdout.count("1/1") == 1
