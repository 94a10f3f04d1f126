"""Exclusive directories of runs and sweeps."""

import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

_HELD: dict[Path, int] = {}  # directories that this process has locked: a lock ends with the process
_MADE: list[Path] = []  # directories that this process has created, inner ones first


def claim_folder(key: str, folder: Path, overrides: Sequence[str]) -> Path:
    """Creates the directory of a run or a sweep for this process alone.

    A directory that is named by the time gets a suffix if it exists; one that was given explicitly may exist, but not
    be in use by another process.

    Args:
        key: The setting: ``hydra.run.dir`` or ``hydra.sweep.dir``.
        folder: The directory.
        overrides: Those of Hydra's settings on the command line.

    Returns:
        The directory, perhaps with a suffix.

    Raises:
        ValueError: If it is in use.
        OSError: If it cannot be created.
    """
    _MADE[:] = [path for path in (folder, *folder.parents) if not path.exists()]
    if any(override.startswith(f"{key}=") for override in overrides):
        folder.mkdir(parents=True, exist_ok=True)
    else:
        folder = _create(folder)
        _MADE.append(folder)
    if not _lock(folder):
        raise ValueError(f"`{key}` must not be in use by another process, got {str(folder)!r}: choose another.")
    return folder


def created() -> list[Path]:
    """Returns the directories that the last claim has created."""
    return list(_MADE)


def release_folder(folder: Path) -> None:
    """Unlocks the directory, and removes what was created for it, as far as it is empty."""
    if (held := _HELD.pop(folder, None)) is not None:
        os.close(held)
    for path in sorted(set(_MADE), key=lambda made: len(made.parts), reverse=True):
        with suppress(OSError):
            path.rmdir()


def _create(folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in count(2):
        path = folder if number == 2 else folder.with_name(f"{folder.name}_{number - 1}")
        with suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError("unreachable")


def _lock(folder: Path) -> bool:
    """Locks a directory until the process ends, or returns False; true where the system has no such locks."""
    if folder in _HELD:
        return True
    try:
        import fcntl
    except ImportError:  # not on Windows
        return True
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return False
    except OSError:  # not on every file system
        os.close(held)
        return True
    _HELD[folder] = held
    return True
