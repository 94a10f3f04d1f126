"""HTML tables for notebooks, without dependencies; all text is escaped."""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape


def table(
    header: Sequence[str],
    rows: Mapping[str, Sequence[float | None]],
    caption: str | None = None,
    notes: Iterable[str] = (),
) -> str:
    """Returns a table with a name and numbers in each row.

    Args:
        header: The titles of the columns, that of the names included.
        rows: Numbers by the name of the row; nan and None are shown as a dash.
        caption: A line above the table.
        notes: Lines below it.

    Example:
        >>> table(["term", "loss"], {"a<b": [0.5]})
        '<table><thead><tr><th>term</th><th>loss</th></tr></thead><tbody><tr><th>a&lt;b</th><td>0.5</td></tr></tbody></table>'
    """
    titles = "".join(f"<th>{escape(title.replace('_', ' '))}</th>" for title in header)
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{_format(value)}</td>' for value in values)}</tr>"
        for name, values in rows.items()
    )
    above = "" if caption is None else f"<caption>{escape(caption)}</caption>"
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f"<table>{above}<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>{below}"


def _format(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4g}"
