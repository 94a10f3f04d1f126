"""Starts a Hydra application so that whatever is wrong with what was typed ends in one message."""

import os
import sys
from collections.abc import Callable
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lossbalance.checks import did_you_mean
from lossbalance.cli.schema import register
from lossbalance.sweeps.launch import run_to_the_end

INTERRUPTED = 130  # what a shell says of a program that Ctrl-C ended


def command_line(main: Callable[[], Any]) -> None:
    """Runs ``main``, made by ``hydra.main``, and leaves with an exit code: 0, 1 after an error, 130 after Ctrl-C.

    An error is explained in one message. The traceback is shown with ``HYDRA_FULL_ERROR=1`` in the environment.
    """
    register()
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        run_to_the_end(main)
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra is to hand the error on to us
    try:
        run_to_the_end(main)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        sys.exit(f"error: {explain(error)}\n(The whole traceback: HYDRA_FULL_ERROR=1.)")


def explain(error: BaseException) -> str:
    """Returns what is wrong, in words for whoever typed the command."""
    if (
        isinstance(error, HydraException | ValueError) and error.__cause__ is not None
    ):  # Hydra found it, the cause says it
        return explain(error.__cause__)
    if isinstance(error, OmegaConfBaseException):
        return f"`{error.full_key or error.key}`: {error.msg}{_known_keys(error)}"
    if isinstance(error, OSError):
        return (
            f"`hydra.run.dir` (in a sweep `hydra.sweep.dir`) must be a folder that can be written: "
            f"{error.strerror}: {error.filename}."
        )
    return str(error) or type(error).__name__


def _known_keys(error: OmegaConfBaseException) -> str:
    if not isinstance(error.parent_node, DictConfig) or error.key in error.parent_node:
        return ""
    known = [str(key) for key in error.parent_node]
    return f"{did_you_mean(error.key, known)}; there are {known}"
