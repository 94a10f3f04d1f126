"""Tables with several targets: those the study was developed on, and held-out ones."""

from collections.abc import Callable, Iterable
from pathlib import Path

from lossbalance._utils.checks import did_you_mean
from studies.one_run.tables import development, held_out
from studies.one_run.tables.table import Kind, Table, Target

__all__ = ["DEVELOPMENT", "HELD_OUT", "TABLES", "Kind", "Table", "Target", "expand_names", "is_present", "read_table"]

DEVELOPMENT: tuple[str, ...] = tuple(development.TABLES)
"""Tables whose results were known when the study was designed."""
HELD_OUT: tuple[str, ...] = tuple(held_out.TABLES)
"""Tables that were chosen, and their columns, before anything was trained on them."""
TABLES: dict[str, Callable[[Path | None], Table]] = development.TABLES | held_out.TABLES
"""The reader of each table, by name."""
_GROUPS = {"development": DEVELOPMENT, "held_out": HELD_OUT}


def expand_names(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the names of tables, with those of a group in place of ``development`` and ``held_out``.

    Raises:
        ValueError: If a name is unknown, or there is none.
    """
    expanded = tuple(table for name in names for table in _GROUPS.get(name, (name,)))
    unknown = sorted(set(expanded) - set(TABLES))
    if unknown or not expanded:
        known = [*TABLES, *_GROUPS]
        hint = did_you_mean(unknown[0], known) if unknown else ""
        raise ValueError(f"`tables` must be some of {known}, got {unknown or []}{hint}.")
    return expanded


def is_present(name: str, folder: Path | None) -> bool:
    """Returns whether a table can be read."""
    return held_out.is_present(name) if name in held_out.TABLES else development.is_present(name, folder)


def read_table(name: str, folder: Path | None) -> Table:
    """Returns a table of :data:`TABLES`.

    Args:
        name: Its name.
        folder: The folder of tables that no package brings.
    """
    return TABLES[name](folder)
