"""From the command line to a trained network; torch is imported only once the configuration stands."""

from lossbalance.cli.command import command_line
from lossbalance.cli.runs.run import run

__all__ = ["command_line", "run"]
