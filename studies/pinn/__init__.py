"""Weighting schemes and conflict aggregators on a physics-informed network."""

from studies.pinn.plot import draw
from studies.pinn.study import CELL, Settings, list_cells, train_cell
from studies.pinn.summary import conclude, summarize, tabulate

__all__ = ["CELL", "Settings", "conclude", "draw", "list_cells", "summarize", "tabulate", "train_cell"]
