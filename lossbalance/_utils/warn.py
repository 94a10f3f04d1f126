"""User warnings: one line each, with the run that they are about."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

SUBJECT = ContextVar("subject", default="")


class RefusedLossWarning(UserWarning, ValueError):  # noqa: N818
    """A loss that a scheme refuses, found where an error would leave a model half switched to another mode.

    Where warnings are errors, it is the ``ValueError`` that the refusal is in a step.
    """


def warn_user(message: str, category: type[UserWarning] = UserWarning) -> None:
    """Warns in one clean line: which line of this library found the fault does not help whoever reads it."""
    subject = SUBJECT.get()
    with _one_line():
        warnings.warn(f"{subject}: {message}" if subject else message, category, stacklevel=2)


def warn_about(subject: str) -> None:
    """Puts what they are about before all warnings to come, such as which of many runs."""
    SUBJECT.set(subject)


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
