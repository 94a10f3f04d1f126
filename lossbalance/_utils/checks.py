"""Checks of arguments: each failure is one message with what must hold, what came in and the likely cure."""

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from numbers import Real

from lossbalance._utils.terms import Terms, expand_terms

_LARGEST = 3.4e38  # what single precision holds


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Returns ``" (did you mean 'physics'?)"``, or nothing when no known name is near."""
    near = get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def check_names(argument: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Checks that ``given`` holds each known name and no other.

    Raises:
        ValueError: If a name is missing or unknown; the message has the nearest known ones.
    """
    given, known = list(given), list(known)
    missing = [name for name in known if name not in given]
    unknown = [f"{name!r}{did_you_mean(name, known)}" for name in given if name not in known]
    problems = []
    if missing:
        problems.append(f"missing {missing}")
    if unknown:
        problems.append(f"unknown {', '.join(unknown)}")
    if problems:
        raise ValueError(f"`{argument}` must name each term of {known} once: {'; '.join(problems)}.")


def check_mapping(argument: str, mapping: object, known: Iterable[str]) -> None:
    """Checks that ``mapping`` gives something for each known name and for no other.

    Raises:
        TypeError: If it is no mapping.
        ValueError: If a name is missing or unknown.
    """
    if not isinstance(mapping, Mapping):
        raise TypeError(f"`{argument}` must map each term of {list(known)} to a number, got {mapping!r}.")
    check_names(argument, mapping, known)


def check_choice(argument: str, choice: str, known: Iterable[str]) -> str:
    """Returns ``choice`` once it is one of the known ones.

    Raises:
        ValueError: If it is not; the message has the known ones and the nearest.
    """
    known = list(known)
    if choice not in known:
        raise ValueError(f"`{argument}` must be one of {known}, got {choice!r}{did_you_mean(choice, known)}.")
    return choice


def check_terms(terms: Iterable[str], argument: str = "terms") -> tuple[str, ...]:
    """Returns the names of the terms, in order, once they are sound.

    Raises:
        TypeError: If ``terms`` is a single string, no list, or holds something else than strings.
        ValueError: If there is no term, or one twice.
    """
    if isinstance(terms, str):
        raise TypeError(f"`{argument}` must be a list of names, got the single string {terms!r}: write [{terms!r}].")
    if not isinstance(terms, Iterable):
        cure = "in a configuration set `terms` beside the group `loss`, as in `criterion.terms=[aux,main]`"
        raise TypeError(f"`{argument}` must be a list of names, got {terms!r}: {cure}.")
    names = expand_terms(terms, argument) if isinstance(terms, Mapping) else terms
    names = names if isinstance(names, Terms) else tuple(names)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"`{argument}` must be a list of names, got {list(names)}.")
    if not names:
        raise ValueError(f"`{argument}` must name at least one loss, got none.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"`{argument}` must name each term once, got {twice} more than once.")
    return names


def check_number(argument: str, value: object, kind: str, holds: Callable[[float], bool], cure: str = "") -> float:
    """Returns ``value`` as a float once it is a number for which ``holds`` is true.

    Args:
        argument: What the user calls it.
        value: What came in.
        kind: What it must be, for the message, such as ``"a number in [0, 1]"``.
        holds: Whether a number is allowed.
        cure: What to do about it, for the message.

    Raises:
        TypeError: If ``value`` is not a real number.
        ValueError: If it is one that is not allowed.
    """
    message = f"`{argument}` must be {kind}, got {value!r}{': ' + cure if cure else ''}."
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(message)
    number = float(value)
    if not holds(number):
        raise ValueError(message)
    return number


def check_positive(argument: str, value: object, cure: str = "") -> float:
    """Returns ``value`` as a float once it is a positive number, finite in single precision too.

    Raises:
        TypeError: If ``value`` is not a real number.
        ValueError: If it is not positive, or not finite.
    """
    return check_number(argument, value, "a positive, finite number", lambda number: 0 < number <= _LARGEST, cure)


def check_not_negative(argument: str, value: object, cure: str = "") -> float:
    """Returns ``value`` as a float once it is 0 or a positive number, finite in single precision too.

    Raises:
        TypeError: If ``value`` is not a real number.
        ValueError: If it is negative, or not finite.
    """
    kind = "a number, finite and not negative"
    return check_number(argument, value, kind, lambda number: 0 <= number <= _LARGEST, cure)


def check_decay(argument: str, value: object) -> float:
    """Returns ``value`` as a float once it can be the decay of a running average.

    Raises:
        TypeError: If ``value`` is not a real number.
        ValueError: If it is not in [0, 1).
    """
    return check_number(argument, value, "a number in [0, 1)", lambda number: 0 <= number < 1)


def check_integer(argument: str, value: object, low: int, high: int | None = None) -> int:
    """Returns ``value`` once it is a whole number from ``low`` to ``high``, both included; None is no upper bound.

    Raises:
        TypeError: If ``value`` is not an integer.
        ValueError: If it is out of range.
    """
    allowed = f"{low} or more" if high is None else f"from {low} to {high}"
    message = f"`{argument}` must be a whole number, {allowed}, got {value!r}."
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(message)
    if value < low or (high is not None and value > high):
        raise ValueError(message)
    return value


def check_flag(argument: str, value: object) -> bool:
    """Returns ``value`` once it is True or False.

    Raises:
        TypeError: If it is anything else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"`{argument}` must be True or False, got {value!r}.")
    return value
