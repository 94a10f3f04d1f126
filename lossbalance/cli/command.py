"""Hydra applications whose errors are reported as a single message."""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from lossbalance.cli.config.schema import register
from lossbalance.cli.explain import EXPLAIN, exit_with_message
from lossbalance.cli.runs.sweep import run_all

INTERRUPTED = 130  # 128 + SIGINT, the shell's convention


def command_line(main: Callable[[], Any]) -> None:
    """Runs ``main``, made by ``hydra.main``, and exits with 0, 1 after an error, 130 after Ctrl-C.

    An error is reported as one message; with ``HYDRA_FULL_ERROR=1`` in the environment its traceback is shown.
    """
    register()
    logging.raiseExceptions = False  # a log record that cannot be printed prints no traceback
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        run_all(main)
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # lets Hydra re-raise the error
    os.environ[EXPLAIN] = "1"
    try:
        run_all(main)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        exit_with_message(error)
    finally:
        _flush()


def _flush() -> None:
    """Flushes what is printed; a reader that is gone, as in ``train | head``, changes no exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
