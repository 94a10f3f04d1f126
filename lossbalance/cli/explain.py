"""Error messages of the command line."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import singledispatch
from typing import NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lossbalance._utils.checks import did_you_mean
from lossbalance._utils.extras import explain_missing, install_command

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
    plugin = re.search(r"^Unknown plugin class : 'hydra_plugins\.(\w+)", str(error))
    if plugin and (command := install_command(plugin[1])):
        return f"`hydra/launcher` needs a package that is not installed: {command}"
    if "Config group override must be a string" in str(error):
        got = str(error).rpartition("Got ")[2].replace("NoneType", "null")
        return f"A group, such as `loss`, must be one of its choices, got {got}: --help lists them."
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
        if set(known) <= {"as_term"}:  # no choice of the group was made
            return f"`{error.full_key}` is not a setting yet: choose `{group}=...` first; --help lists the choices."
        return f"`{error.full_key}` is not a setting{did_you_mean(error.key, known)}: there are {known}."
    return f"`{error.full_key}`: {str(error).splitlines()[0].rstrip('.')}."


@explain.register
def _(error: ImportError) -> str:
    return explain_missing(error) or str(error)


@explain.register
def _(error: OSError) -> str:
    folder = "`hydra.run.dir`, in a sweep `hydra.sweep.dir`, must be a folder that can be written"
    return f"{folder}, got {error.filename!r}: {error.strerror}." if error.filename else str(error)
