"""A file with columns: some are targets, the others are what they are predicted from."""

from lossbalance.tasks.table.data import TableData
from lossbalance.tasks.table.module import TableModule
from lossbalance.tasks.table.network import TableNet

__all__ = ["TableData", "TableModule", "TableNet"]
