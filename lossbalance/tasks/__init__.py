"""What ``lossbalance train`` trains: data, networks, and the LightningModule that joins them with a criterion."""

from lossbalance.tasks.digit_pairs import DigitPairs
from lossbalance.tasks.heads import Classification, Head, Reconstruction
from lossbalance.tasks.module import MultiLossModule
from lossbalance.tasks.network import IntermediateNet

__all__ = ["Classification", "DigitPairs", "Head", "IntermediateNet", "MultiLossModule", "Reconstruction"]
