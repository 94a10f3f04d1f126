"""Validation of the arguments of a penalty."""

import math
import re
from collections.abc import Iterable, Mapping

from lossbalance._utils.checks import check_number, check_positive

MODES = ("loss", "gradient", "decoupled")
Patterns = str | Iterable[str]
Strength = float | Mapping[str, float]


def check_patterns(argument: str, patterns: Patterns | None) -> tuple[str, ...] | None:
    """Returns the patterns as a tuple once each is a regular expression.

    Raises:
        TypeError: If one is not a string.
        ValueError: If one is not a regular expression.
    """
    if patterns is None:
        return None
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"`{argument}` must be regular expressions on parameter names, got {pattern!r}.")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"`{argument}` must be regular expressions, got {pattern!r}: {error}.") from None
    return patterns


def check_strength(argument: str, strength: object) -> Strength:
    """Returns the strength once it is a number, finite and not negative, or maps patterns to such numbers.

    Raises:
        TypeError: If it is neither.
        ValueError: If a number is not allowed, or a pattern is not a regular expression.
    """
    kind = "a number, finite and not negative, or map patterns to such numbers"
    if not isinstance(strength, Mapping):
        return check_number(argument, strength, kind, _is_strength)
    check_patterns(argument, strength)
    if not strength:
        raise ValueError(f"`{argument}` must be {kind}, got an empty mapping.")
    return {
        pattern: check_number(f"{argument}[{pattern!r}]", each, kind, _is_strength)
        for pattern, each in strength.items()
    }


def check_clipped(clipped: bool, mode: str) -> bool:
    """Returns ``clipped`` once it has an effect in this mode.

    Raises:
        ValueError: If it is true in another mode than ``"gradient"``.
    """
    if clipped and mode != "gradient":
        raise ValueError(
            f"`clipped` must be False in mode {mode!r}: in mode 'loss' the penalty is clipped with the data anyway, in "
            "mode 'decoupled' it never is."
        )
    return clipped


def check_share(share: object, strength: object, mode: str) -> float:
    """Returns the share once it is positive and finite, and the other arguments allow it.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is out of range, there is a number for ``strength``, or the mode is ``"decoupled"``.
    """
    if strength is not None and not isinstance(strength, Mapping):
        raise ValueError(f"`share` must be given in place of a number for `strength`, got {share!r} and {strength!r}.")
    if mode == "decoupled":
        raise ValueError("`share` must go with mode 'gradient' or 'loss', got 'decoupled', which adds no gradient.")
    return check_positive("share", share)


def _is_strength(number: float) -> bool:
    return 0 <= number < math.inf
