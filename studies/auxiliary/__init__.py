"""Auxiliary losses: test loss of the main term under related, unrelated and harmful auxiliary terms."""

from studies.auxiliary.plot import draw
from studies.auxiliary.study import CELL, Settings, list_cells, train_cell
from studies.auxiliary.summary import conclude, summarize, tabulate

__all__ = ["CELL", "Settings", "conclude", "draw", "list_cells", "summarize", "tabulate", "train_cell"]
