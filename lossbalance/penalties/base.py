"""What a penalty is."""

from abc import ABC

from torch import nn


class Penalty(nn.Module, ABC):
    """A regularizer on parameters."""
