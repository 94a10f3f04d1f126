"""Tables with several targets: those by which the study was made, and those that were kept back from it."""

from collections.abc import Callable
from pathlib import Path

from studies.tables import kept_back, seen
from studies.tables.table import Kind, Table, Target

__all__ = ["KEPT_BACK", "SEEN", "TABLES", "Kind", "Table", "Target", "is_there", "read_table"]

SEEN: tuple[str, ...] = tuple(seen.TABLES)
"""Tables whose results were known when the study was made."""
KEPT_BACK: tuple[str, ...] = tuple(kept_back.TABLES)
"""Tables that were chosen, and their columns, before anything was trained on them."""
TABLES: dict[str, Callable[[Path], Table]] = seen.TABLES | kept_back.TABLES
"""How each table is read, by name."""


def is_there(name: str, folder: Path) -> bool:
    """Returns whether a table can be read."""
    return kept_back.is_there(name) if name in kept_back.TABLES else seen.is_there(name, folder)


def read_table(name: str, folder: Path) -> Table:
    """Returns a table of :data:`TABLES`.

    Args:
        name: Its name.
        folder: Where tables that no package brings are.
    """
    return TABLES[name](folder)
