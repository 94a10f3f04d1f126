"""Record of a run: ``summary.json``."""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lossbalance._utils.files import write_text
from lossbalance.cli.explain import explain

SUMMARY = "summary.json"
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")  # set by launchers
_IGNORED_OVERRIDES = ("ckpt_path=", "resume=", "output_dir=")  # without influence on the result


@contextmanager
def recorded(config: DictConfig, folder: Path) -> Iterator[dict[str, Any]]:
    """Yields the record of a run, and writes it however the run ends.

    A completed record is only replaced by another completed one.
    """
    record, start = begin(config), time.perf_counter()
    try:
        yield record
        record["status"] = "completed"
    except Exception as error:
        record |= {"status": "failed", "message": explain(error)}
        raise
    finally:
        record["seconds"] = round(time.perf_counter() - start, 3)
        if is_first_process():
            write(folder, record, keep_completed=record["status"] != "completed")


def begin(config: DictConfig) -> dict[str, Any]:
    """Returns the record of a run before training."""
    hydra = HydraConfig.get()
    choices = {group: choice for group, choice in hydra.runtime.choices.items() if not group.startswith("hydra/")}
    return {
        "status": "interrupted",
        "task": config.task.name,
        "loss": choices["loss"],
        "seed": config.seed,
        "fold": config.fold,
        "folds": config.folds,
        "overrides": [override for override in hydra.overrides.task if not override.startswith(_IGNORED_OVERRIDES)],
        "terms": list(config.task.terms),
        "objective": {**config.task.objective, "value": None},
        "metrics": {},
        "tested": None,
        "weights": {},
        "gradient_shares": {},
        "conflicts": {},
        "last_epoch": {},
        "diagnoses": [],
        "config": choices | _settings(config),
    }


def read(folder: Path) -> dict[str, Any]:
    """Returns the record in a folder; an empty one where none can be read."""
    try:
        record = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def write(folder: Path, record: dict[str, Any], keep_completed: bool = False) -> None:
    """Writes the record into a folder, a number that is not finite as null; a completed one may be kept instead."""
    if keep_completed and is_completed(read(folder)):
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / SUMMARY, json.dumps(_finite(record), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    """Returns a tree with null for each number that is not finite: JSON has no other."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_completed(record: dict[str, Any]) -> bool:
    """Whether it is the record of a completed run."""
    return record.get("status") == "completed"


def completed_alike(config: DictConfig, folder: Path) -> dict[str, Any] | None:
    """Returns the record in a folder if it is of a completed run with the same settings."""
    record = read(folder)
    return record if is_completed(record) and record.get("config") == begin(config)["config"] else None


def is_first_process() -> bool:
    """Whether this is rank 0."""
    return all(os.environ.get(rank, "0") == "0" for rank in _RANKS)


def _settings(config: DictConfig) -> dict[str, Any]:
    """Returns every setting by its dotted key, as typed on the command line, except those interpolated from another."""
    unused = {"output_dir", "ckpt_path", "resume"} | (set() if "alpha" in config.loss else {"alpha"})
    settings = {key: value for key, value in _leaves(OmegaConf.to_container(config)) if key not in unused}
    typed = [override.lstrip("+").partition("=")[0] for override in HydraConfig.get().overrides.task]
    targets = {key: OmegaConf.select(config, key) for key in typed if key.endswith("._target_")}
    return settings | targets


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        elif not str(key).startswith("_") and not str(value).startswith("${"):
            yield f"{prefix}{key}", value
