"""Resolution of ``_target_``: classes and functions, installed or in the current directory."""

import inspect
import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lossbalance._utils.checks import did_you_mean


def import_from_here() -> None:
    """Lets modules of the current directory be imported, as ``python -m`` does."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)


def find_target(key: str, settings: DictConfig, wanted: str) -> Callable[..., Any]:
    """Returns what ``_target_`` names, once it can be called with the settings.

    Args:
        key: Where the settings stand, such as ``task.module``.
        settings: The target and its arguments.
        wanted: What the target must be, for the message.

    Raises:
        ValueError: If there is no target, it cannot be imported, or it does not take one of the arguments.
    """
    name = OmegaConf.select(settings, "_target_", throw_on_missing=False)
    if not isinstance(name, str) or "." not in name:
        raise ValueError(f"`{key}._target_` must be the full name of {wanted}, such as my_project.Net, got {name!r}.")
    target = _import(f"{key}._target_", name)
    if not callable(target):
        raise ValueError(f"`{key}._target_` must be {wanted}, got {name!r}, which is {type(target).__name__}.")
    _check_arguments(key, settings, name, target)
    return target


def make(settings: DictConfig) -> Any:
    """Returns what the settings describe; lists and mappings in them arrive as those of Python."""
    return instantiate(settings, _convert_="all")


def _import(key: str, name: str) -> Any:
    """Returns what the dotted name stands for, and imports the modules on the way there."""
    first, *others = name.split(".")
    refused = f"`{key}` must be a name that can be imported, got {name!r}"
    if find_spec(first) is None:
        here = [entry.removesuffix(".py") for entry in os.listdir() if entry.endswith(".py") or os.path.isdir(entry)]
        raise ValueError(
            f"{refused}: there is no module {first!r}{did_you_mean(first, here)}, neither installed nor in "
            f"{os.getcwd()}."
        )
    found, path = import_module(first), first
    for part in others:
        if not hasattr(found, part):
            if not hasattr(found, "__path__") or find_spec(f"{path}.{part}") is None:
                raise ValueError(f"{refused}: {path} has no {part!r}{did_you_mean(part, vars(found))}.")
            import_module(f"{path}.{part}")
        found, path = getattr(found, part), f"{path}.{part}"
    return found


def _check_arguments(key: str, settings: DictConfig, name: str, target: Callable[..., Any]) -> None:
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # some builtins have none
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for argument in map(str, settings):
        if not argument.startswith("_") and argument not in parameters:
            known = list(parameters)
            raise ValueError(
                f"`{key}.{argument}` is not an argument of {name}{did_you_mean(argument, known)}: it takes {known}."
            )
