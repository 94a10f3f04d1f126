"""Tables: several targets predicted from the columns of a file."""

from lossbalance.tasks.table.data import TableData
from lossbalance.tasks.table.module import TableModule
from lossbalance.tasks.table.network import TableNet
from lossbalance.tasks.table.predictor import TablePredictor, load

__all__ = ["TableData", "TableModule", "TableNet", "TablePredictor", "load"]
