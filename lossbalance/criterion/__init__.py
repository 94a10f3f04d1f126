"""The criterion: named losses in, one scalar out, and a record of what each term weighed."""

from lossbalance.criterion.breakdown import Breakdown
from lossbalance.criterion.factory import make_criterion
from lossbalance.criterion.weighted_loss import WeightedLoss

__all__ = ["Breakdown", "WeightedLoss", "make_criterion"]
