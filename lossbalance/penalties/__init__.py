"""Penalties: regularizers on parameters."""

from lossbalance.penalties.attachment import Attachment
from lossbalance.penalties.base import Penalty
from lossbalance.penalties.elastic_net import ElasticNet
from lossbalance.penalties.group_lasso import GroupLasso
from lossbalance.penalties.l1 import L1
from lossbalance.penalties.l2 import L2

__all__ = ["L1", "L2", "Attachment", "ElasticNet", "GroupLasso", "Penalty"]
