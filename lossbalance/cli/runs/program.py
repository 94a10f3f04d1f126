"""A run of a sweep as a program of its own, for trainings of several processes.

Lightning starts the other ranks by the command line of the process, which in a sweep is that of the whole sweep
(https://github.com/facebookresearch/hydra/issues/2231). As a program of its own, a run has a command line of its own.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

OUTPUT = "output.txt"
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h: the signal that a process gets when its parent dies


def needs_program(config: DictConfig) -> bool:
    """Whether a run starts several processes, and this one is not known by its command line."""
    alone = HydraConfig.get().mode == RunMode.RUN or (config.trainer.devices == 1 and config.trainer.num_nodes == 1)
    return not alone and not _are_ranks_started(os.environ)


def run_program(config: DictConfig, folder: Path) -> int:
    """Trains in a program of its own, whose output goes to ``output.txt`` in the folder; returns its exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    ended_by_parent = _end_with_parent if sys.platform == "linux" else None
    with (folder / OUTPUT).open("wb") as output:
        program = subprocess.Popen(
            command(folder),
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(os.environ),
            preexec_fn=ended_by_parent,
        )
        try:
            return program.wait()
        finally:
            program.kill()


def command(folder: Path) -> list[str]:
    """Returns the command of a single run with the overrides of the run at hand."""
    hydra = HydraConfig.get()
    ignored = ("resume=", "output_dir=", "+callbacks.pruning.")
    overrides = [override for override in hydra.overrides.task if not override.startswith(ignored)]
    overrides += [f"hydra.run.dir='{folder.absolute()}'", "hydra.output_subdir=null"]
    overrides += [f"hydra.searchpath=[{','.join(hydra.searchpath)}]"] if hydra.searchpath else []
    return [sys.executable, "-m", "lossbalance", "train", *overrides]


def _are_ranks_started(environment: Mapping[str, str]) -> bool:
    """Whether a launcher has started this process as one of several ranks."""
    return int(environment.get("SLURM_NTASKS", 1)) > 1 or "LOCAL_RANK" in environment


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment without what a cluster says of the job: Lightning starts the ranks itself."""
    return {name: value for name, value in environment.items() if not name.startswith("SLURM_") and name not in _RANKS}


def _end_with_parent() -> None:
    """Leaves the cluster's timeout signal to the parent, and dies with the parent."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
