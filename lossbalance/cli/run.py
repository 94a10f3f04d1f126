"""One run: its folder, what it leaves there, and the number that a sweeper gets."""

import gc
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lossbalance.cli.command import explained
from lossbalance.cli.explain import explain
from lossbalance.cli.isolate import run_isolated

SUMMARY = "summary.json"
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")  # what launchers tell each process


@explained()
def run(config: DictConfig) -> float:
    """Trains as the configuration says and returns the objective, an unweighted validation metric.

    The folder ``output_dir`` gets the resolved ``config.yaml``, ``summary.json``, and what the callbacks and loggers
    write. With ``resume``, a run whose summary says that it is completed is not trained again.
    """
    folder = Path(config.output_dir)
    if config.resume and (objective := _objective_of_completed(config, folder)) is not None:
        return objective
    folder.mkdir(parents=True, exist_ok=True)
    if _is_first_process():
        OmegaConf.save(config, folder / "config.yaml", resolve=True)
    return _train_isolated(config, folder) if _can_be_isolated(config) else _train(config, folder)


def _can_be_isolated(config: DictConfig) -> bool:
    """Whether this is one of several runs, in one process, on a system where a fork is safe."""
    return HydraConfig.get().mode == RunMode.MULTIRUN and config.trainer.devices == 1 and sys.platform == "linux"


def _train(config: DictConfig, folder: Path) -> float:
    with _recorded(config, folder) as record:
        _import_training().train(config, record)
    return record["objective"]["value"]


def _train_isolated(config: DictConfig, folder: Path) -> float:
    """Trains in a copy of this process, so that what kills a run kills neither its sweep nor the runs after it."""
    _import_training()  # once, for all copies
    try:
        return run_isolated(_train_and_explain, config, folder)
    except BrokenExecutor:
        with _recorded(config, folder):
            raise RuntimeError("the process was killed: was there memory enough?") from None


def _train_and_explain(config: DictConfig, folder: Path) -> float:
    """Trains; of an error only its message is sure to get from one process to another."""
    try:
        return _train(config, folder)
    except Exception as error:
        raise RuntimeError(explain(error)) from error


def _import_training() -> ModuleType:
    """Imports torch and what stands on it, which takes seconds.

    It makes a million objects that are there to stay: looking for garbage among them, then and at the end of the
    program, would take two seconds more.
    """
    gc.disable()
    try:
        import lossbalance.cli.training as training
    finally:
        gc.enable()
    gc.freeze()
    return training


@contextmanager
def _recorded(config: DictConfig, folder: Path) -> Iterator[dict[str, Any]]:
    """Gives the record of a run, and writes it however the run ends."""
    record, start = _begin(config), time.perf_counter()
    try:
        yield record
        record["status"] = "completed"
    except Exception as error:
        record |= {"status": "failed", "message": explain(error)}
        raise
    finally:
        record["seconds"] = round(time.perf_counter() - start, 3)
        if _is_first_process():
            (folder / SUMMARY).write_text(json.dumps(record, indent=2) + "\n")


def _is_first_process() -> bool:
    """Whether this is the one of several processes that train together which writes."""
    return all(os.environ.get(rank, "0") == "0" for rank in _RANKS)


def _begin(config: DictConfig) -> dict[str, Any]:
    """Returns the record of a run as it stands before training."""
    hydra = HydraConfig.get()
    choices = {group: choice for group, choice in hydra.runtime.choices.items() if not group.startswith("hydra/")}
    return {
        "status": "interrupted",
        "task": config.task.name,
        "loss": choices["loss"],
        "seed": config.seed,
        "fold": config.fold,
        "folds": config.folds,
        "overrides": list(hydra.overrides.task),
        "terms": list(config.task.terms),
        "objective": {**config.task.objective, "value": None},
        "metrics": {},
        "weights": {},
        "gradient_shares": {},
        "last_epoch": {},
        "config": choices | _settings(config),
    }


def _settings(config: DictConfig) -> dict[str, Any]:
    """Returns every setting by its dotted key, as it is typed on the command line, but those that follow another."""
    unused = {"output_dir", "ckpt_path", "resume"} | (set() if "alpha" in config.loss else {"alpha"})
    return {key: value for key, value in _leaves(OmegaConf.to_container(config)) if key not in unused}


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        elif not str(key).startswith("_") and not str(value).startswith("${"):
            yield f"{prefix}{key}", value


def _objective_of_completed(config: DictConfig, folder: Path) -> float | None:
    path = folder / SUMMARY
    record = json.loads(path.read_text()) if path.exists() else {}
    same = record.get("config") == _begin(config)["config"]
    return record["objective"]["value"] if same and record["status"] == "completed" else None
