"""Argument types for ``argparse``, each with one message for what it refuses."""

import math
from argparse import ArgumentTypeError


def count(text: str) -> int:
    """Returns a whole number, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"must be a whole number, 1 or more, got {text!r}")
    return int(text)


def positive(text: str) -> float:
    """Returns a positive, finite number."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ArgumentTypeError(f"must be a positive, finite number, got {text!r}")
    return number
