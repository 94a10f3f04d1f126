"""Names of terms, some of which are columns of a row: one loss tensor for many terms."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class Terms(tuple[str, ...]):
    """The names of the terms in the order of the row, ``("channel/0", "channel/1", "main")``.

    Args:
        rows: The names of the columns of each row, by the name of the row.
        names: The names of losses, rows and single terms, in order.
    """

    rows: Mapping[str, tuple[str, ...]]
    names: tuple[str, ...]

    def __new__(cls, names: Sequence[str], rows: Mapping[str, tuple[str, ...]]) -> "Terms":
        """Expands the rows."""
        made = super().__new__(cls, [term for name in names for term in rows.get(name, (name,))])
        made.names, made.rows = tuple(names), dict(rows)
        return made

    def __add__(self, other: Any) -> "Terms":
        return Terms((*self.names, *names_of(other)), {**self.rows, **rows_of(other)})

    def __reduce__(self) -> Any:
        return Terms, (self.names, self.rows)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Terms":
        return self


def expand_terms(terms: Mapping[Any, Any], argument: str = "terms") -> Terms:
    """Returns the names of rows: a number of columns, or a list of their names, by the name of the row; 1 is one term.

    Raises:
        TypeError: If a value is neither a number nor a list of names.
        ValueError: If a row has no column, or one twice.

    Example:
        >>> expand_terms({"channel": 2, "level": ["500 hPa", "850 hPa"], "main": 1})
        ('channel/0', 'channel/1', 'level/500 hPa', 'level/850 hPa', 'main')
    """
    rows: dict[str, tuple[str, ...]] = {}
    for name, columns in terms.items():
        if isinstance(columns, int) and not isinstance(columns, bool) and columns > 0:
            if columns > 1:
                rows[name] = tuple(f"{name}/{i}" for i in range(columns))
            continue
        if isinstance(columns, str | bool | int) or not isinstance(columns, Iterable):
            raise TypeError(
                f"`{argument}[{name!r}]` must be the number of the columns of a row, 1 for a single term, or a list of "
                f"their names, got {columns!r}."
            )
        rows[name] = tuple(f"{name}/{column}" for column in columns)
        if not rows[name] or len(set(rows[name])) < len(rows[name]):
            raise ValueError(f"`{argument}[{name!r}]` must name each column once, and at least one, got {columns!r}.")
    return Terms(list(terms), rows)


def rows_of(terms: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Returns the names of the columns of each row, by its name."""
    return terms.rows if isinstance(terms, Terms) else {}


def names_of(terms: Sequence[str]) -> tuple[str, ...]:
    """Returns the names by which losses are given: rows and single terms."""
    return terms.names if isinstance(terms, Terms) else tuple(terms)


def expand(settings: Any, terms: Sequence[str]) -> Any:
    """Returns a mapping by name as one by term: a row gives its value, or its list of values, to its columns."""
    rows = rows_of(terms)
    if not rows or not isinstance(settings, Mapping):
        return settings
    expanded: dict[str, Any] = {}
    for name, value in settings.items():
        columns = rows.get(name, (name,))
        several = name in rows and isinstance(value, Sequence) and not isinstance(value, str)
        expanded |= zip(columns, value, strict=True) if several else dict.fromkeys(columns, value)
    return expanded
