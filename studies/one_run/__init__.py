"""Weighting schemes in one run against the best fixed weights of a sweep, on tables with several targets."""

from studies.one_run.plot import draw
from studies.one_run.study import CELL, Settings, list_cells, train_cell
from studies.one_run.summary import conclude, summarize, tabulate

__all__ = ["CELL", "Settings", "conclude", "draw", "list_cells", "summarize", "tabulate", "train_cell"]
