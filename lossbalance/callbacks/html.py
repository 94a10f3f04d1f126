"""HTML tables for notebooks: what each term did in an epoch."""

from collections.abc import Iterable, Mapping

from lossbalance.criterion.html import table

_COLUMNS = ("loss", "weight", "contribution", "value_share", "gradient_share")


def means_table(rows: Mapping[str, Mapping[str, float]], diagnoses: Iterable[str]) -> str:
    """Returns the means of the last epoch, a row for each term and penalty, and the diagnoses below.

    Args:
        rows: The means by term and penalty, then by quantity.
        diagnoses: The faults of the epoch.
    """
    if not rows:
        return "<p>No epoch has ended yet.</p>"
    body = {name: [means.get(column) for column in _COLUMNS] for name, means in rows.items()}
    return table(["term", *_COLUMNS], body, notes=diagnoses)
