"""Error against trainings spent: searches over weights, over learning rates, and over a scheme's ratios."""

from studies.budget.plot import draw
from studies.budget.study import CELL, Settings, list_cells, train_cell
from studies.budget.summary import conclude, summarize, tabulate

__all__ = ["CELL", "Settings", "conclude", "draw", "list_cells", "summarize", "tabulate", "train_cell"]
