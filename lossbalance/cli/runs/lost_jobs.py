"""Jobs of a cluster that were killed: which error tells, and when the other jobs have ended."""

import time
from concurrent.futures import BrokenExecutor
from pathlib import Path

from omegaconf import OmegaConf


def is_lost(error: Exception) -> bool:
    """Whether the error says that a worker was killed, joblib's or a job of submitit's; Ray retries by itself."""
    return isinstance(error, BrokenExecutor) or type(error).__name__ == "UncompletedJobError"


def wait_for_jobs(folder: Path) -> None:
    """Waits until all jobs that submitit has submitted for the sweep have ended; the launcher stops at the first."""
    submitted = sorted((folder / ".submitit").glob("*/*_submitted.pkl"))
    if not submitted:
        return
    launcher = OmegaConf.load(folder / "multirun.yaml").hydra.launcher
    for path in submitted:
        job = path.name.removesuffix("_submitted.pkl")
        if launcher["_target_"].endswith("SlurmLauncher"):
            from submitit import SlurmJob

            SlurmJob(folder=path.parent, job_id=job).wait()
        else:
            while _is_running(job):
                time.sleep(1)


def _is_running(pid: str) -> bool:
    """Whether a process of this machine runs."""
    try:
        state = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
