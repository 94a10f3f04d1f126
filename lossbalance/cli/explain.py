"""Error messages of the command line."""

import errno
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import singledispatch
from pathlib import Path
from typing import NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lossbalance._utils.checks import did_you_mean
from lossbalance._utils.extras import explain_missing, install_command

_FULL = (errno.ENOSPC, errno.EDQUOT)
_PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"
_PLUGINS = str(Path(__file__).parents[2] / "hydra_plugins")
_PATHS = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_LIBRARIES = (_PACKAGE, _PLUGINS, "<", *_PATHS)
EXPLAIN = "LOSSBALANCE_EXPLAIN"  # environment variable: errors are reported as one message


@contextmanager
def explained() -> Iterator[None]:
    """Ends the program with the message of an error, unless a sweep has to continue or a traceback is wanted.

    Hydra would otherwise print a message of its own before it re-raises the error of a single run.
    """
    try:
        yield
    except Exception as error:
        several = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
        if several or EXPLAIN not in os.environ:
            raise
        exit_with_message(error)


def exit_with_message(error: Exception) -> NoReturn:
    """Ends the program with the message of an error."""
    sys.exit(f"error: {explain(error)}\n(HYDRA_FULL_ERROR=1 shows the traceback.)")


@singledispatch
def explain(error: BaseException) -> str:
    """Returns the message of an error, for the user of the command line."""
    if isinstance(error.__cause__, OSError) and not isinstance(error, ValueError):
        return explain(error.__cause__)
    if place := user_place(error):
        return f"{type(error).__name__}: {error} ({place})"
    plugin = re.search(r"^Unknown plugin class : 'hydra_plugins\.(\w+)", str(error))
    if plugin and (command := install_command(plugin[1])):
        return f"`hydra/launcher` needs a package that is not installed: {command}"
    if "Config group override must be a string" in str(error):
        got = str(error).rpartition("Got ")[2].replace("NoneType", "null")
        group = _group_of(error) or "such as `loss`"
        return f"A group, {group}, must be one of its choices, got {got}: --help lists them."
    return str(error) or type(error).__name__


@explain.register
def _(error: HydraException) -> str:
    text, _, key = str(error).partition("full_key:")
    key = key.split()[0] if key.strip() else ""
    message = " ".join(text.partition("composing config:")[2].split() or text.split())
    if error.__cause__ is not None and not isinstance(error.__cause__, OmegaConfBaseException):
        message = explain(error.__cause__)
    elif error.__cause__ is not None:
        return explain(error.__cause__)
    return f"`{key}`: {message.rstrip('.')}." if key and "`" not in message else message


@explain.register
def _(error: OverrideParseException) -> str:
    reason = error.message.splitlines()[-2 if "hydra.cc" in error.message else -1]
    return (
        f"`{error.override}` cannot be read ({reason}): write key=value, in quotes where it holds what the shell "
        "would take, such as 'alpha=range(0,1,0.1)'."
    )


@explain.register
def _(error: MissingConfigException) -> str:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    if group == "hydra/launcher" and (command := install_command(f"hydra_{choice}_launcher")):
        return f"`{group}={choice}` needs a package that is not installed: {command}"
    if not error.options:
        return str(error)
    options = list(error.options)
    cure = ": `lossbalance search` searches by Optuna" if group == "hydra/sweeper" else did_you_mean(choice, options)
    return f"`{group}` must be one of {options}, got {choice!r}{cure}."


@explain.register
def _(error: OmegaConfBaseException) -> str:
    if isinstance(error.parent_node, DictConfig) and error.key not in error.parent_node:
        known = [str(key) for key in error.parent_node if key != "hydra"]
        group = str(error.full_key).rpartition(".")[0]
        if group.startswith("trainer."):
            return f"`{group}` is one value: to make it an object, write '{group}={{_target_: ..., key: value}}'."
        if group == "fixed":
            return f"`{error.full_key}` must be the weight of a term, a number: {str(error).splitlines()[0]}."
        if set(known) <= {"as_term"}:  # no choice of the group was made
            return f"`{error.full_key}` is not a setting yet: choose `{group}=...` first; --help lists the choices."
        if group in ("loss.weights", "loss.limits"):
            known.append(f"those of '{group}={{{error.key}: 1.0}}', which replaces them")
        return f"`{error.full_key}` is not a setting{did_you_mean(error.key, known)}: there are {known}."
    return f"`{error.full_key}`: {str(error).splitlines()[0].rstrip('.')}."


@explain.register
def _(error: ImportError) -> str:
    return explain_missing(error) or str(error)


@explain.register
def _(error: OSError) -> str:
    if place := user_place(error):
        return f"{type(error).__name__}: {error} ({place})"
    if error.errno in _FULL:
        where = error.filename or (HydraConfig.get().runtime.output_dir if HydraConfig.initialized() else os.getcwd())
        return f"The disk is full ({error.strerror}): {str(where)!r} cannot be written."
    folder = "`hydra.run.dir`, in a sweep `hydra.sweep.dir`, must be a folder that can be written"
    return f"{folder}, got {error.filename!r}: {error.strerror}." if error.filename else str(error)


def _group_of(error: BaseException) -> str:
    """Returns the group whose override Hydra refuses, which its message does not name."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if key := getattr(frame.f_locals.get("override"), "key_or_group", None):
            return f"`{key}`"
    return ""


def user_place(error: BaseException) -> str:
    """Returns the file and line of the user's own code that raised an error; empty where this library raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [number for number, frame in enumerate(frames) if frame.filename.startswith(_PACKAGE)]
    own = [number for number, frame in enumerate(frames) if not frame.filename.startswith(_LIBRARIES)]
    if not own or max(ours, default=-1) > own[-1] or (not ours and own[0] == 0):
        return ""
    frame = frames[own[-1]]
    return f"{frame.filename}, line {frame.lineno}, in {frame.name}"
