"""Sparsity: the number of penalized weights, or groups of a group lasso, that are exactly zero."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lossbalance.penalties.base import Penalty
from lossbalance.penalties.dtensor import local, sum_over_parts
from lossbalance.penalties.selection import Group


class Sparsity(NamedTuple):
    """The zeros of one penalty: 0-d tensors."""

    zeros: Tensor
    """How many weights are exactly zero; of a group lasso, how many groups are."""
    size: Tensor
    """How many there are in all."""


@torch.no_grad()
def count_zeros(penalty: Penalty) -> Sparsity:
    """Counts the zeros of a penalty on the module that it was last used on; nan of nan without one.

    It makes one pass over the weights, and no host-device synchronization. Sharded weights are counted over all ranks.
    """
    if penalty.module is None:
        return Sparsity(torch.tensor(math.nan), torch.tensor(math.nan))
    groups = penalty.select(penalty.module)
    device = groups[0].weights[0].device if groups else None
    zeros = sum((_zeros(group) for group in groups), start=torch.zeros((), device=device))
    size = sum(
        weight.numel() / (group.blocks.size if group.blocks else 1) for group in groups for weight in group.weights
    )
    return Sparsity(zeros, torch.full((), float(size), device=device))


def _zeros(group: Group) -> Tensor:
    weights = [local(weight) for weight in group.weights]
    if group.blocks is None:
        own = torch.stack([(weight == 0).sum() for weight in weights]).sum().float()
    else:
        norms = group.blocks.norms(weights)
        own = group.blocks.share * torch.stack([(norm == 0).sum() for norm in norms]).sum().float()
    return sum_over_parts(own, group.weights[0])
