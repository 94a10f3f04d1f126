"""Precision: state that ``module.half()`` must not round, and the widest dtype of a device."""

from collections.abc import Callable

import torch
from torch import Tensor


def keep_precision(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Returns ``fn``, as ``nn.Module._apply`` has it, such that it moves tensors but never narrows them.

    ``model.bfloat16()`` must not round alpha, or stop a running average whose steps are smaller than bf16 sees.
    """

    def move(tensor: Tensor) -> Tensor:
        moved = fn(tensor)
        narrowed = tensor.is_floating_point() and moved.dtype.itemsize < tensor.dtype.itemsize
        return tensor.to(moved.device) if narrowed else moved

    return move


def widest(device: torch.device) -> torch.dtype:
    """Returns fp64, or fp32 for a device that may lack it."""
    return torch.float64 if device.type in ("cpu", "cuda") else torch.float32
