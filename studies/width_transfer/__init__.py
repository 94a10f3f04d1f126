"""Normalizations of a penalty as the network grows wider: how far the best strength moves."""

from studies.width_transfer.plot import draw
from studies.width_transfer.study import CELL, Settings, list_cells, train_cell
from studies.width_transfer.summary import conclude, summarize, tabulate

__all__ = ["CELL", "Settings", "conclude", "draw", "list_cells", "summarize", "tabulate", "train_cell"]
