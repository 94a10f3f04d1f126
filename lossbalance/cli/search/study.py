"""Optuna study of a search: its name, its storage, and the definition of the search."""

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.types import Override
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from lossbalance.cli.search.space import typed
from lossbalance.cli.search.storage import locate, open_storage

_DEFINITION = "question"  # the key in storages
_NAME = re.compile(r"\w[\w.-]*")


def search_definition(
    fixed: Sequence[str], space: Sequence[Override], objective: Mapping[str, StudyDirection]
) -> dict[str, Any]:
    """Returns the definition of a search: fixed overrides, search space, objective."""
    searched = {override.get_key_element(): typed(override) for override in space}
    objectives = {name: direction.name.lower() for name, direction in objective.items()}
    return {"fixed": sorted(fixed), "space": dict(sorted(searched.items())), "objective": objectives}


def name_study(definition: Mapping[str, Any], task: str) -> str:
    """Returns a readable name, unique to the definition."""
    readable = re.sub(r"[^\w.-]+", "_", "-".join([task, *definition["space"]]))[:60]
    return f"{readable}-{hashlib.sha256(json.dumps(definition).encode()).hexdigest()[:6]}"


def check_name(name: str) -> str:
    """Returns the name of a study once it can be the name of a folder too.

    Raises:
        ValueError: If it cannot.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"`--study` must be a name of letters, digits, dots and dashes, got {name!r}.")
    return name


def open_study(
    name: str,
    definition: Mapping[str, Any],
    storage: str | None,
    folder: Path,
    sampler: optuna.samplers.BaseSampler,
    pruner: optuna.pruners.BasePruner,
) -> optuna.Study:
    """Creates or loads the study.

    Args:
        name: Its name.
        definition: The definition of the search.
        storage: The file of Optuna's journal, or the URL of a database; None is a journal in the folder.
        folder: Parent of the trials' folders.
        sampler: Suggests trials.
        pruner: Stops trials.

    Raises:
        ValueError: If the storage is invalid or holds something else, or the study is of another search.
    """
    occupied = (folder / "0").exists()
    opened = open_storage(storage, folder)
    _await(lambda: name not in _foreign(opened), seconds=30)
    _await(lambda: not _foreign(opened), seconds=1)
    if foreign := _foreign(opened):
        raise ValueError(
            f"`--storage` must hold studies of this program alone, got {locate(storage, folder)!r} with the study "
            f"{foreign[0]!r} of another: choose another storage."
        )
    try:
        directions = list(definition["objective"].values())
        study = optuna.create_study(
            study_name=name, storage=opened, sampler=sampler, pruner=pruner, directions=directions
        )
        study.set_user_attr(_DEFINITION, definition)
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=opened, sampler=sampler, pruner=pruner)
        _await(lambda: _DEFINITION in study.user_attrs, seconds=30)
    _check_definition(study, definition)
    if occupied and not study.get_trials(deepcopy=False):
        raise ValueError(
            f"`--study` must be a new name where the storage is new, got {name!r}, whose trials are in "
            f"{str(folder)!r}: give the --storage that knows them, or another --study."
        )
    return study


def _check_definition(study: optuna.Study, definition: Mapping[str, Any]) -> None:
    stored = study.user_attrs[_DEFINITION]
    for what in ("fixed", "space", "objective"):
        if stored[what] != definition[what]:
            raise ValueError(
                f"`--study` must name a study of the same search, got {study.study_name!r}, created for another search "
                f"space: {_write(stored[what])}, not {_write(definition[what])}; leave it out, or choose another name."
            )


def _write(part: Any) -> str:
    overrides = [f"{key}={value}" for key, value in part.items()] if isinstance(part, Mapping) else part
    return f"`{' '.join(overrides)}`" if overrides else "the default"


def _foreign(storage: BaseStorage) -> list[str]:
    studies = optuna.get_all_study_summaries(storage, include_best_trial=False)
    return [study.study_name for study in studies if _DEFINITION not in study.user_attrs]


def _await(holds: Callable[[], bool], seconds: int) -> None:
    """Waits so long at most: another process may have made a study a moment ago, and not yet defined it."""
    for _ in range(10 * seconds):
        if holds():
            return
        time.sleep(0.1)
