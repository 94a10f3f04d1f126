"""Weighting schemes: rules that turn a row of losses into one total."""

from lossbalance.weighting.alpha import Alpha
from lossbalance.weighting.base import Observation, Weighting, weighted_sum
from lossbalance.weighting.constrained import Constrained
from lossbalance.weighting.cov import CoV
from lossbalance.weighting.dwa import DWA
from lossbalance.weighting.equal import Equal
from lossbalance.weighting.famo import FAMO
from lossbalance.weighting.fixed import Fixed
from lossbalance.weighting.geometric_mean import GeometricMean
from lossbalance.weighting.gradbalance import GradBalance
from lossbalance.weighting.gradnorm import GradNorm
from lossbalance.weighting.inverse_loss import InverseLoss
from lossbalance.weighting.lr_annealing import LRAnnealing
from lossbalance.weighting.ntk import NTK
from lossbalance.weighting.random_weighting import RandomWeighting
from lossbalance.weighting.relobralo import ReLoBRaLo
from lossbalance.weighting.scalarizer import Scalarizer
from lossbalance.weighting.smooth_tchebycheff import SmoothTchebycheff
from lossbalance.weighting.softadapt import SoftAdapt
from lossbalance.weighting.uncertainty import Uncertainty
from lossbalance.weighting.uncertainty_softmax import UncertaintySoftmax

__all__ = [
    "DWA",
    "FAMO",
    "NTK",
    "Alpha",
    "CoV",
    "Constrained",
    "Equal",
    "Fixed",
    "GeometricMean",
    "GradBalance",
    "GradNorm",
    "InverseLoss",
    "LRAnnealing",
    "Observation",
    "RandomWeighting",
    "ReLoBRaLo",
    "Scalarizer",
    "SmoothTchebycheff",
    "SoftAdapt",
    "Uncertainty",
    "UncertaintySoftmax",
    "Weighting",
    "weighted_sum",
]
