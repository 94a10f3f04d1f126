"""What happens around a sweep: it goes on where it stopped, outlives a worker that is killed, and ends in a report."""

import logging
import sys
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from lossbalance.cli.config.settings import check_groups, check_task_name
from lossbalance.cli.explain import leave
from lossbalance.cli.runs.progress import note_begin, note_end
from lossbalance.cli.runs.record import SUMMARY, read
from lossbalance.cli.runs.run import rehearse

log = logging.getLogger(__name__)
_LAUNCHERS = ("hydra._internal.core_plugins.basic_launcher", "hydra_plugins.hydra_joblib_launcher._core")


class SweepFolder(Callback):
    """Knows the folder of the sweep at hand, and with ``resume=true`` chooses that of the last one like it."""

    current: ClassVar[Path | None] = None

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Is called by Hydra before a single run."""
        rehearse(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Is called by Hydra before the first run."""
        try:
            folder = _choose_folder(config)
        except ValueError as error:
            leave(error)  # Hydra would only warn
        SweepFolder.current = folder
        for launcher in _LAUNCHERS:  # they would list all runs
            logging.getLogger(launcher).setLevel(logging.WARNING)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Is called by Hydra before a run, in the process of the run."""
        note_begin(Path(config.hydra.sweep.dir), config.hydra.overrides.task)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Is called by Hydra after a run, in the process of the run."""
        summary = Path(config.hydra.runtime.output_dir, SUMMARY)
        written = summary.stat().st_mtime if summary.exists() else time.time()
        note_end(Path(config.hydra.sweep.dir), config.hydra.overrides.task, read(summary.parent), written)


def run_to_the_end(main: Callable[[], Any]) -> None:
    """Calls ``main``, made by ``hydra.main``. If that sweeps, every run is tried, and a report is written at the end.

    A run that is killed has failed, like one that raises. When a whole worker is killed, joblib gives up the runs that
    are still to be done; then the sweep itself goes on with what is missing, as long as that ends some, and has not
    failed if that makes it whole.

    Raises:
        Exception: The first error of a run, once the others are done.
    """
    try:
        finished = -1
        while True:
            try:
                return main()
            except BrokenExecutor as error:
                if _finished() <= finished:
                    raise
                finished = _finished()
                log.warning("A process was killed (%s): going on with the runs that are missing.", error)
                sys.argv += ["resume=true", f"hydra.sweep.dir='{SweepFolder.current}'"]
    finally:
        if SweepFolder.current is not None and SweepFolder.current.exists():
            _report(SweepFolder.current)


def _choose_folder(config: DictConfig) -> Path:
    """Returns the folder of the sweep, with ``resume=true`` that of the last one like it.

    Raises:
        ValueError: If it has runs already, and they are not to be resumed; or the task's name is none.
    """
    if choices := OmegaConf.select(config, "hydra.runtime.choices"):
        check_groups(choices)
        check_task_name(config)
    folder = Path(config.hydra.sweep.dir)
    if config.resume and not (folder / "multirun.yaml").exists():
        folder = _last_alike(config) or folder
        config.hydra.sweep.dir = str(folder)
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{folder}'")  # what the runs are told
    if not config.resume and any(folder.glob(f"*/{SUMMARY}")):
        raise ValueError(f"`hydra.sweep.dir` must be without runs, got {str(folder)!r}: another, or resume=true.")
    return folder


def _last_alike(config: DictConfig) -> Path | None:
    """Finds the latest sweep beside this one that was asked for with the same words."""
    asked = _words(config)
    sweeps = sorted(Path(config.hydra.sweep.dir).parent.glob("*/multirun.yaml"), reverse=True)
    return next((path.parent for path in sweeps if _words(OmegaConf.load(path)) == asked), None)


def _words(config: Any) -> list[str]:
    return [word for word in config.hydra.overrides.task if not word.startswith("resume=")]


def _finished() -> int:
    return len(list(SweepFolder.current.glob("*/summary.json"))) if SweepFolder.current else 0


def _report(folder: Path) -> None:
    from lossbalance.sweeps.report import write_report  # draws: not needed before

    try:
        print(f"\n{write_report([folder])}\nThe whole report: {folder / 'report.html'}")
    except (ValueError, OSError) as error:
        print(f"\nNo report: {error}", file=sys.stderr)
