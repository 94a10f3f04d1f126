"""Command line: configuration, runs, training, search; torch is imported only once the configuration is valid."""

from lossbalance.cli.command import command_line
from lossbalance.cli.runs.run import run

__all__ = ["command_line", "run"]
