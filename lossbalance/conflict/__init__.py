"""Gradient aggregation: how conflicting gradients of the terms are combined."""

from lossbalance.conflict.aligned_mtl import AlignedMTL
from lossbalance.conflict.base import Aggregator
from lossbalance.conflict.cagrad import CAGrad
from lossbalance.conflict.config import ConFIG
from lossbalance.conflict.from_torchjd import FromTorchJD
from lossbalance.conflict.gate import Gate
from lossbalance.conflict.imtlg import IMTLG
from lossbalance.conflict.mgda import MGDA
from lossbalance.conflict.pcgrad import PCGrad
from lossbalance.conflict.protect import Protect

__all__ = ["IMTLG", "MGDA", "Aggregator", "AlignedMTL", "CAGrad", "ConFIG", "FromTorchJD", "Gate", "PCGrad", "Protect"]
