"""Optuna storage of a search: a journal in a file, or a database."""

import json
import logging
import os
import random
import re
import time
from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend

_TABLES = {"studies", "trials", "version_info"}  # of a database that Optuna made
_INCOMPLETE = "some of Optuna's tables are missing"
_COLLISION = re.compile(f"{_INCOMPLETE}|already exists|UNIQUE constraint|duplicate key|locked|deadlock", re.IGNORECASE)
log = logging.getLogger(__name__)
_SETTLED = 0.5  # seconds after which a line that is still truncated stays so
_ATTEMPTS = 60  # at a database whose tables another process creates: half a minute at most


def open_storage(given: str | None, folder: Path) -> BaseStorage:
    """Opens the journal or database, or creates it; several processes may do so at once.

    Args:
        given: The file of Optuna's journal, or the URL of a database; None is a journal in the folder.
        folder: The folder of the study.

    Raises:
        ValueError: If it is neither, or holds something else.
    """
    location = locate(given, folder)
    try:
        if "://" in location:
            return _open_database(location)
        _check_journal(Path(location))
        folder.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(location))
    except Exception as error:  # of any database
        shown = re.sub(r"//([^/@:]*):[^/@]*@", r"//\1:***@", location)
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise ValueError(
            f"`--storage` must be a journal of Optuna's, a new file, or the URL of a database, got {shown!r}: {reason}."
        ) from error


def locate(given: str | None, folder: Path) -> str:
    """Returns the file or URL of a storage."""
    return given or str(folder / "journal.log")


def _open_database(url: str) -> BaseStorage:
    """Opens a database, again where another process creates its tables at the same time."""
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}  # seconds that a lock is waited for
    for _ in range(_ATTEMPTS):
        try:
            _check_database(url)
            return get_storage(RDBStorage(url, engine_kwargs=options))
        except Exception as error:  # of any database
            if not _COLLISION.search(str(error)):
                raise
        time.sleep(random.uniform(0.1, 0.5))
    return get_storage(url)


def _check_database(url: str) -> None:
    """Checks that Optuna's tables are there, or none."""
    import sqlalchemy  # a dependency of Optuna

    engine = sqlalchemy.create_engine(url)
    try:
        tables = set(sqlalchemy.inspect(engine).get_table_names())
    finally:
        engine.dispose()
    if tables and not tables >= _TABLES and tables & _TABLES:
        raise ValueError(_INCOMPLETE)
    if tables and not tables >= _TABLES:
        raise ValueError(f"it holds tables of something else, such as {min(tables)!r}")


def _check_journal(path: Path) -> None:
    """Checks that each line of the file, if there is one, is one of Optuna's journal; drops a truncated last one."""
    if not path.exists():
        if not path.parent.is_dir() and path.name != "journal.log":
            raise ValueError(f"there is no folder {str(path.parent)!r}")
        return
    if not path.is_file():
        raise ValueError("it is not a file")
    lines = path.read_bytes().splitlines(keepends=True)
    truncated = lines.pop() if len(lines) > 1 and not _is_entry(lines[-1]) else b""
    for number, line in enumerate(lines, start=1):
        if not _is_entry(line):
            raise ValueError(f"line {number} of the file is not one of a journal, or is truncated")
    if truncated:  # by a full disk or a killed process
        _drop_last_line(path, truncated)


def _is_entry(line: bytes) -> bool:
    try:
        return json.loads(line)["op_code"] is not None and line.endswith(b"\n")
    except (ValueError, TypeError, KeyError):
        return False


def _drop_last_line(path: Path, line: bytes) -> None:
    """Removes a truncated last line, unless another process is about to complete it."""
    size = path.stat().st_size
    time.sleep(_SETTLED)
    if path.stat().st_size == size:
        os.truncate(path, size - len(line))
        log.warning("The last line of %s was truncated and is dropped.", path)
