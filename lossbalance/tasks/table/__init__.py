"""Tables: several targets predicted from the columns of a file."""

from lossbalance.tasks.table.data import TableData
from lossbalance.tasks.table.module import TableModule
from lossbalance.tasks.table.network import TableNet

__all__ = ["TableData", "TableModule", "TableNet"]
