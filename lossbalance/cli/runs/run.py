"""A run: its directory, and the objective returned to a sweeper."""

import atexit
import copy
import gc
import logging
import sys
from concurrent.futures import BrokenExecutor
from logging.handlers import BufferingHandler
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from lossbalance.cli.config.objective import check_given, set_direction
from lossbalance.cli.config.settings import check_groups, check_settings
from lossbalance.cli.explain import explain, explained
from lossbalance.cli.runs.folder import claim_folder, created, release_folder
from lossbalance.cli.runs.isolate import run_isolated
from lossbalance.cli.runs.program import OUTPUT, needs_program, run_program
from lossbalance.cli.runs.record import (
    SUMMARY,
    begin,
    completed_alike,
    is_completed,
    is_first_process,
    read,
    recorded,
    write,
)

_MOST_RECORDS = 1000  # of a log, while a training is built
_PREPARED: dict[Path, tuple[Any, list[logging.LogRecord]]] = {}  # trainings that are built, by directory
_KILLED = "the process was killed: was there enough memory?"


@explained()
def run(config: DictConfig) -> float:
    """Trains as configured and returns the objective, an unweighted validation metric.

    The folder ``output_dir`` gets the resolved ``config.yaml``, ``summary.json``, and what the callbacks and loggers
    write. With ``resume``, a completed run is not trained again.
    """
    check_groups(HydraConfig.get().runtime.choices)
    _check(config)
    folder = Path(config.output_dir)
    if config.resume and (record := completed_alike(config, folder)):
        return record["objective"]["value"]
    check_folder(config, folder)
    if needs_program(config):
        return _train_in_program(config, folder)
    return _train_isolated(config, folder) if _can_be_isolated(config) else _train(config, folder)


def validate_run(config: DictConfig) -> None:
    """Validates the configuration before anything is written to the run directory, which is claimed.

    On rank 0 everything is built, and used by the run: a command that is refused leaves no directory.
    """
    with explained():
        copied, folder = _without_hydra(config, Path(config.hydra.run.dir).absolute())
        _check(copied)
        if not is_first_process() or (copied.resume and completed_alike(copied, folder)):
            return
        check_folder(copied, folder)
        claimed = claim_folder("hydra.run.dir", folder, config.hydra.overrides.hydra)
        config.hydra.run.dir = str(claimed)
        copied, _ = _without_hydra(config, claimed)
        _check(copied)
        existed = claimed not in created()
        try:
            _PREPARED[claimed] = _prepare(copied)
        except Exception as error:
            if existed:
                write(claimed, begin(copied) | {"status": "failed", "message": explain(error)}, keep_completed=True)
            release_folder(claimed)
            raise


def _without_hydra(config: DictConfig, folder: Path) -> tuple[DictConfig, Path]:
    """Returns a copy of the configuration as the run will see it, and its directory."""
    config = copy.deepcopy(config)
    check_groups(config.hydra.runtime.choices)
    config.hydra.runtime.output_dir = str(folder)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config, folder


def _prepare(config: DictConfig) -> tuple[Any, list[logging.LogRecord]]:
    """Builds a training, and sets its log records aside until the run has a log file."""
    root, buffer = logging.getLogger(), BufferingHandler(_MOST_RECORDS)
    handlers, root.handlers = root.handlers, [buffer]
    try:
        training = import_training().prepare(config)
        if training.built.is_ours:
            training.built.data.setup("fit")
    finally:
        root.handlers = handlers
    return training, list(buffer.buffer)  # the handler clears its own when logging is configured


def check_folder(config: DictConfig, folder: Path) -> None:
    """Refuses the directory of a completed run, unless that run is resumed.

    Raises:
        ValueError: If it is.
    """
    own = config.ckpt_path is not None and folder.resolve() in Path(config.ckpt_path).resolve().parents
    if is_completed(read(folder)) and not own:
        raise ValueError(
            f"`hydra.run.dir`, in a sweep `hydra.sweep.dir`, must be without a finished run, got {str(folder)!r} with "
            f"its {SUMMARY}: choose another folder, or resume with ckpt_path={folder / 'checkpoints' / 'last.ckpt'}."
        )


def _check(config: DictConfig) -> None:
    check_given(config)
    check_settings(config)
    set_direction(config)


def _can_be_isolated(config: DictConfig) -> bool:
    """Whether this is one of several runs, each in one process, on a system where forking is safe."""
    return HydraConfig.get().mode == RunMode.MULTIRUN and config.trainer.devices == 1 and sys.platform == "linux"


def _train(config: DictConfig, folder: Path) -> float:
    prepared, records = _PREPARED.pop(folder.absolute(), (None, []))
    for log_record in records:
        logging.getLogger(log_record.name).handle(log_record)
    with recorded(config, folder) as record:
        import_training().train(config, record, prepared)
    return record["objective"]["value"]


def _train_isolated(config: DictConfig, folder: Path) -> float:
    """Trains in a fork of this process, so that a run that is killed spares its sweep and the other runs."""
    import_training()  # once, for all copies
    try:
        return run_isolated(_train_and_explain, config, folder)
    except BrokenExecutor:
        if record := completed_alike(config, folder):  # killed after its record was written
            return record["objective"]["value"]
        with recorded(config, folder):
            raise RuntimeError(_KILLED) from None


def _train_in_program(config: DictConfig, folder: Path) -> float:
    """Trains in a program of its own, by the record of which the run is judged."""
    code = run_program(config, folder)
    if record := completed_alike(config, folder):
        return record["objective"]["value"]
    record = read(folder)
    if code > 0 and record.get("status") == "failed":
        raise RuntimeError(record["message"])
    message = _KILLED if code < 0 else f"the program ended without a record: its output is in {folder / OUTPUT}"
    with recorded(config, folder):
        raise RuntimeError(message)


def _train_and_explain(config: DictConfig, folder: Path) -> float:
    """Trains; of an error only the message can always be pickled."""
    try:
        return _train(config, folder)
    except Exception as error:
        raise RuntimeError(explain(error)) from error


def import_training() -> ModuleType:
    """Imports torch and everything that depends on it, which takes seconds.

    The import makes a million permanent objects: garbage collection among them, then and at exit, would take two
    seconds more.
    """
    gc.disable()
    try:
        import lossbalance.cli.training.train as training
    finally:
        gc.enable()
    gc.freeze()
    atexit.register(_unfreeze)
    return training


def _unfreeze() -> None:
    """Lets all objects be collected at exit where triton is loaded, which reports them as leaks."""
    if "triton" in sys.modules:
        gc.unfreeze()
