"""Starts a Hydra application so that whatever is wrong with what was typed ends in one message."""

import os
import sys
from collections.abc import Callable
from typing import Any

from lossbalance.cli.config.schema import register
from lossbalance.cli.explain import EXPLAIN, leave
from lossbalance.cli.runs.sweep import run_to_the_end

INTERRUPTED = 130  # what a shell says of a program that Ctrl-C ended


def command_line(main: Callable[[], Any]) -> None:
    """Runs ``main``, made by ``hydra.main``, and leaves with an exit code: 0, 1 after an error, 130 after Ctrl-C.

    An error is explained in one message; with ``HYDRA_FULL_ERROR=1`` in the environment its traceback is shown.
    """
    register()
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        run_to_the_end(main)
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra is to hand the error on to us
    os.environ[EXPLAIN] = "1"
    try:
        run_to_the_end(main)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        leave(error)
