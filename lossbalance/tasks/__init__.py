"""Tasks of the command line: data, networks, and LightningModules with a criterion."""

from lossbalance.tasks.digit_pairs import DigitPairs
from lossbalance.tasks.heads import Classification, Head, Reconstruction
from lossbalance.tasks.module import MultiLossModule
from lossbalance.tasks.network import IntermediateNet

__all__ = ["Classification", "DigitPairs", "Head", "IntermediateNet", "MultiLossModule", "Reconstruction"]
