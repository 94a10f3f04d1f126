"""Command-line options from the fields of a dataclass and the descriptions in its docstring."""

import re
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from inspect import getdoc
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints


def add_options(parser: ArgumentParser, settings: type) -> None:
    """Adds an option for each field: ``--steps 2000`` for ``steps: int = 2000``, several values for a tuple.

    Args:
        parser: The parser.
        settings: A dataclass whose fields have defaults, and an entry in the section ``Args`` of the docstring.
    """
    types, described = get_type_hints(settings), dict(_read_descriptions(getdoc(settings) or ""))
    for field in fields(settings):
        several = get_origin(types[field.name]) is tuple
        shown = _format_default(field)
        parser.add_argument(
            f"--{field.name}",
            type=_element(types[field.name]),
            nargs="+" if several else None,
            default=field.default,
            help=f"{described[field.name]}{shown}".replace("%", "%%"),
        )


def make_settings(settings: type, chosen: dict[str, Any]) -> Any:
    """Makes the dataclass from parsed options, with lists as tuples.

    Args:
        settings: The dataclass.
        chosen: The options by name; further ones are ignored.

    Raises:
        ValueError: If a value is out of range.
    """
    picked = {field.name: chosen[field.name] for field in fields(settings)}
    return settings(**{name: tuple(value) if isinstance(value, list) else value for name, value in picked.items()})


def _element(kind: Any) -> type:
    """Returns the type of one value: of a tuple's elements, or of what may be None."""
    inner = [argument for argument in get_args(kind) if argument not in (NoneType, ...)]
    return inner[0] if inner else kind


def _format_default(field: Field[Any]) -> str:
    default = field.default
    if default is None or default is MISSING:
        return ""
    values = default if isinstance(default, tuple) else [default]
    return f" (default: {' '.join(str(value) for value in values)})"


def _read_descriptions(docstring: str) -> Iterator[tuple[str, str]]:
    """Yields names and descriptions of the section ``Args``, on one line each."""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", docstring, re.MULTILINE)
    entries = re.split(r"^    (?=\w+: )", section.group(1), flags=re.MULTILINE)[1:] if section else []
    for entry in entries:
        name, _, text = entry.partition(": ")
        yield name, " ".join(text.replace("``", "").split())
