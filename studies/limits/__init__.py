"""Limits on one loss (dual ascent) against the weights of a sweep."""

from studies.limits.plot import draw
from studies.limits.study import CELL, Settings, conclude, list_cells, summarize, tabulate, train_cell

__all__ = ["CELL", "Settings", "conclude", "draw", "list_cells", "summarize", "tabulate", "train_cell"]
