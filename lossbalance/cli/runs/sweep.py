"""Sweep driver: resumes, survives killed workers, writes the report."""

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from lossbalance.cli.config.settings import check_groups, check_task_name
from lossbalance.cli.explain import exit_with_message
from lossbalance.cli.runs.folder import claim_folder
from lossbalance.cli.runs.lost_jobs import is_lost, wait_for_jobs
from lossbalance.cli.runs.progress import record_end, record_start
from lossbalance.cli.runs.record import SUMMARY, read
from lossbalance.cli.runs.run import validate_run
from lossbalance.cli.runs.warnings_summary import summarize_warnings

log = logging.getLogger(__name__)
_LAUNCHERS = ("hydra._internal.core_plugins.basic_launcher", "hydra_plugins.hydra_joblib_launcher._core")


class SweepFolder(Callback):
    """Hydra callback: folder of the sweep; with ``resume=true``, that of the last one with the same overrides."""

    current: ClassVar[Path | None] = None

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra hook: validates a single run before it starts."""
        validate_run(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra hook: chooses the folder before the first run of a sweep."""
        try:
            folder = _choose_folder(config)
        except (ValueError, OSError) as error:
            exit_with_message(error)  # Hydra only logs it
        SweepFolder.current = folder
        for launcher in _LAUNCHERS:  # they list all runs
            logging.getLogger(launcher).setLevel(logging.WARNING)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra hook: records the start of a run, in its process."""
        record_start(Path(config.hydra.sweep.dir), config.hydra.overrides.task)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Hydra hook: prints the result of a run, in its process."""
        summary = Path(config.hydra.runtime.output_dir, SUMMARY)
        written = summary.stat().st_mtime if summary.exists() else time.time()
        record_end(Path(config.hydra.sweep.dir), config.hydra.overrides.task, read(summary.parent), written)


def run_all(main: Callable[[], Any]) -> None:
    """Calls ``main``, made by ``hydra.main``. In a sweep every run is tried, and a report is written at the end.

    A run that is killed has failed, like one that raises. When a whole worker is killed, joblib gives up the pending
    runs, and submitit its own; then the sweep is resumed, as long as each attempt completes a run, and succeeds if none
    is missing.

    Raises:
        Exception: The first error of a run, once the others are done.
    """
    try:
        finished = -1
        while True:
            try:
                return main()
            except Exception as error:
                if not is_lost(error) or SweepFolder.current is None:
                    raise
                wait_for_jobs(SweepFolder.current)
                if _finished() <= finished:
                    raise
                finished = _finished()
                reason = str(error).partition("\n")[0]
                log.warning("A process was killed (%s): resuming with the missing runs.", reason)
                sys.argv += ["resume=true", f"hydra.sweep.dir='{SweepFolder.current}'"]
    finally:
        if SweepFolder.current is not None and SweepFolder.current.exists():
            _report(SweepFolder.current)


def _choose_folder(config: DictConfig) -> Path:
    """Returns the folder of the sweep, with ``resume=true`` that of the last one like it.

    Raises:
        ValueError: If it has runs and ``resume`` is not set, or the task's name is invalid.
    """
    if choices := OmegaConf.select(config, "hydra.runtime.choices"):
        check_groups(choices)
        check_task_name(config)
    folder = Path(config.hydra.sweep.dir)
    if config.resume and not (folder / "multirun.yaml").exists():
        folder = _last_alike(config) or folder
        config.hydra.sweep.dir = str(folder)
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{folder}'")  # passed on to the runs
    if not config.resume and _is_explicit(config) and any(folder.glob(f"*/{SUMMARY}")):
        raise ValueError(f"`hydra.sweep.dir` must be without runs, got {str(folder)!r}: another, or resume=true.")
    claimed = claim_folder("hydra.sweep.dir", folder.absolute(), config.hydra.overrides.hydra)
    if claimed != folder.absolute():
        config.hydra.sweep.dir = str(claimed)
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{claimed}'")
        return claimed
    return folder


def _is_explicit(config: DictConfig) -> bool:
    return any(override.startswith("hydra.sweep.dir=") for override in config.hydra.overrides.hydra)


def _last_alike(config: DictConfig) -> Path | None:
    """Finds the latest sweep in the same parent folder with the same overrides."""
    overrides = _overrides(config)
    sweeps = sorted(Path(config.hydra.sweep.dir).parent.glob("*/multirun.yaml"), reverse=True)
    return next((path.parent for path in sweeps if _overrides(OmegaConf.load(path)) == overrides), None)


def _overrides(config: Any) -> list[str]:
    return [override for override in config.hydra.overrides.task if not override.startswith("resume=")]


def _finished() -> int:
    return len(list(SweepFolder.current.glob("*/summary.json"))) if SweepFolder.current else 0


def _report(folder: Path) -> None:
    from lossbalance.sweeps.report import write_report  # imports matplotlib

    try:
        for warning in summarize_warnings(folder):
            print(f"\n{warning}", file=sys.stderr)
        print(f"\n{write_report([folder])}\nThe whole report: {folder / 'report.html'}")
    except (ValueError, OSError) as error:
        print(f"\nNo report: {error}", file=sys.stderr)
