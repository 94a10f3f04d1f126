"""Distributed helpers."""

import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """How many processes train together; 1 without ``torch.distributed``."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(values: Tensor) -> Tensor:
    """Returns the sum of ``values`` over all ranks, bit-equal on each; one collective, none on a single process."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total
