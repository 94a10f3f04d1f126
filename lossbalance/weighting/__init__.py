"""Weighting schemes: rules that turn a row of losses into one total."""

from lossbalance.weighting.alpha import Alpha
from lossbalance.weighting.base import Observation, Weighting, weighted_sum
from lossbalance.weighting.equal import Equal
from lossbalance.weighting.fixed import Fixed

__all__ = ["Alpha", "Equal", "Fixed", "Observation", "Weighting", "weighted_sum"]
