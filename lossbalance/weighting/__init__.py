"""Weighting schemes: rules that turn a row of losses into one total."""

from lossbalance.weighting.alpha import Alpha
from lossbalance.weighting.base import Observation, Weighting, sum_to_count, weighted_sum
from lossbalance.weighting.equal import Equal
from lossbalance.weighting.fixed import Fixed
from lossbalance.weighting.gradbalance import GradBalance
from lossbalance.weighting.gradnorm import GradNorm
from lossbalance.weighting.lr_annealing import LRAnnealing
from lossbalance.weighting.scalarizer import Scalarizer
from lossbalance.weighting.uncertainty import Uncertainty
from lossbalance.weighting.uncertainty_softmax import UncertaintySoftmax

__all__ = [
    "Alpha",
    "Equal",
    "Fixed",
    "GradBalance",
    "GradNorm",
    "LRAnnealing",
    "Observation",
    "Scalarizer",
    "Uncertainty",
    "UncertaintySoftmax",
    "Weighting",
    "sum_to_count",
    "weighted_sum",
]
