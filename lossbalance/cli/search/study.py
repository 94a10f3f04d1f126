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
from optuna.storages import BaseStorage, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection

from lossbalance.cli.search.space import typed

_DEFINITION = "question"  # the key in storages
_TABLES = {"studies", "trials", "version_info"}  # of a database that Optuna made
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
    opened = _open_storage(storage, folder)
    _await(lambda: not _foreign(opened))
    if foreign := _foreign(opened):
        raise ValueError(
            f"`--storage` must hold studies of this program alone, got {_location(storage, folder)!r} with the study "
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


def _await(holds: Callable[[], bool]) -> None:
    """Waits a second at most: another process that works on the study may have made it a moment ago."""
    for _ in range(10):
        if holds():
            return
        time.sleep(0.1)


def _open_storage(given: str | None, folder: Path) -> BaseStorage:
    location = _location(given, folder)
    try:
        if "://" in location:
            _check_database(location)
            return get_storage(location)
        _check_journal(Path(location))
        folder.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(location))
    except Exception as error:  # of any database
        shown = re.sub(r"//([^/@:]*):[^/@]*@", r"//\1:***@", location)
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise ValueError(
            f"`--storage` must be a journal of Optuna's, a new file, or the URL of a database, got {shown!r}: {reason}."
        ) from error


def _location(given: str | None, folder: Path) -> str:
    return given or str(folder / "journal.log")


def _check_database(url: str) -> None:
    """Checks that Optuna's tables are there, or none."""
    import sqlalchemy  # a dependency of Optuna

    engine = sqlalchemy.create_engine(url)
    try:
        tables = set(sqlalchemy.inspect(engine).get_table_names())
    finally:
        engine.dispose()
    if tables and not tables >= _TABLES:
        raise ValueError(f"it holds tables of something else, such as {min(tables)!r}")


def _check_journal(path: Path) -> None:
    """Checks that each line of the file, if there is one, is one of Optuna's journal."""
    if not path.exists():
        if not path.parent.is_dir() and path.name != "journal.log":
            raise ValueError(f"there is no folder {str(path.parent)!r}")
        return
    if not path.is_file():
        raise ValueError("it is not a file")
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        try:
            known = json.loads(line)["op_code"] is not None and line.endswith(b"\n")
        except (ValueError, TypeError, KeyError):
            known = False
        if not known:
            raise ValueError(f"line {number} of the file is not one of a journal, or is cut off")
