"""Warnings for whoever trains."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def warn_user(message: str) -> None:
    """Warns in one clean line: which line of this library found the fault does not help whoever reads it."""
    with _one_line():
        warnings.warn(message, UserWarning, stacklevel=2)


@contextmanager
def _one_line() -> Iterator[None]:
    original = warnings.formatwarning

    def formatwarning(message: Warning | str, *args: Any, **kwargs: Any) -> str:
        return f"warning: {message}\n"

    warnings.formatwarning = formatwarning
    try:
        yield
    finally:
        warnings.formatwarning = original
