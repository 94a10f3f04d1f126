"""Schema of the group ``trainer``: the arguments of Lightning's ``Trainer``, read from its source.

Importing Lightning takes seconds, and a mistyped setting must be refused at once.
"""

import ast
import re
from dataclasses import make_dataclass
from functools import cache, reduce
from importlib.util import find_spec
from inspect import cleandoc
from operator import or_
from pathlib import Path
from typing import Any

_GROUPS = ("logger", "callbacks")  # arguments that other groups of the configuration make
_SCALARS: dict[str, type] = {"bool": bool, "int": int, "float": float, "str": str}


def _schema() -> type:
    """Returns a dataclass with a field for each argument of the Trainer that is installed, and its default."""
    fields: list[Any] = [("_target_", str, "pytorch_lightning.Trainer")]
    arguments = _init().args
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if argument.arg not in _GROUPS and default is not None:
            fields.append((argument.arg, _type(argument.annotation), ast.literal_eval(default)))
    return make_dataclass("Trainer", fields, namespace={"__module__": __name__})  # where pickle finds it


def trainer_comments() -> dict[str, str]:
    """Returns the first sentence of Lightning's documentation of each argument."""
    text = cleandoc(ast.get_docstring(_init(), clean=False) or "")
    paragraphs = re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w+: |^\w|\Z)", text, re.MULTILINE | re.DOTALL)
    return {name: " ".join(entry.split()).partition(". ")[0].rstrip(".") for name, entry in paragraphs}


@cache
def _init() -> ast.FunctionDef:
    """Returns the constructor of the Trainer."""
    package = find_spec("pytorch_lightning")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("pytorch-lightning is not installed: pip install pytorch-lightning")
    source = (Path(package.origin).parent / "trainer" / "trainer.py").read_text(encoding="utf-8")
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "Trainer"]
    return next(node for node in classes[0].body if isinstance(node, ast.FunctionDef) and node.name == "__init__")


def _type(annotation: ast.expr | None) -> Any:
    """Returns the type of an argument of plain values; anything goes for one that also takes objects or lists."""
    names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)} if annotation else set()
    if not names or not names <= {"Optional", "Union", *_SCALARS}:
        return Any
    kinds: list[Any] = [kind for name, kind in _SCALARS.items() if name in names]
    return reduce(or_, [*kinds, None] if "Optional" in names else kinds)


Trainer = _schema()
