"""DTensor helpers: layouts, local parts and norms of sharded parameters, beside ordinary ones."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def layout(tensor: Tensor) -> Any:
    """Returns the mesh and the placements of a DTensor; None for an ordinary tensor."""
    return (tensor.device_mesh, tensor.placements) if _is_dtensor(tensor) else None  # type: ignore[attr-defined]


def local(tensor: Tensor) -> Tensor:
    """Returns this rank's part of the tensor, dense."""
    tensor = tensor.to_dense() if tensor.is_sparse else tensor
    return tensor.to_local() if _is_dtensor(tensor) else tensor  # type: ignore[attr-defined]


def check_not_sharded(module: nn.Module) -> None:
    """Refuses to differentiate by the parameters of ``fully_shard``, which are gathered and freed within a step.

    Raises:
        TypeError: If ``fully_shard`` was applied to a part of the module.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None and any(isinstance(part, fsdp.FSDPModule) for part in module.modules()):
        raise TypeError(
            "`share` in mode 'loss' takes the gradient of the total ahead of its backward pass, which parameters under "
            "`fully_shard` do not allow: use mode='gradient'."
        )


def to_dtensor(part: Tensor, like: Tensor) -> Tensor:
    """Returns the DTensor with the local part ``part`` and the layout of ``like``."""
    if not _is_dtensor(like):
        return part
    from torch.distributed.tensor import DTensor

    mesh, placements = layout(like)
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=like.shape, stride=like.stride())


def sum_over_parts(value: Tensor, like: Tensor) -> Tensor:
    """Returns the sum of ``value`` over the ranks that ``like`` is sharded over."""
    if not _is_dtensor(like):
        return value
    mesh, placements = layout(like)
    for dim, placement in enumerate(placements):
        if placement.is_shard():
            value = value.clone()
            dist.all_reduce(value, group=mesh.get_group(dim))
    return value


def norm(parts: Mapping[nn.Parameter, Tensor]) -> Tensor:
    """Returns the norm, ``[]``, of all tensors together, given the local part of each by its parameter."""
    by_layout: dict[Any, list[nn.Parameter]] = {}
    for weight in parts:
        by_layout.setdefault(layout(weight), []).append(weight)
    squares = [
        sum_over_parts(
            torch.stack(torch._foreach_norm([parts[weight] for weight in weights])).square().sum(), weights[0]
        )
        for weights in by_layout.values()
    ]
    return sum(squares, start=torch.zeros(())).sqrt()


def upcast(weights: Iterable[Tensor]) -> list[Tensor]:
    """Returns this rank's parts in fp32 or wider, in which squares of bf16 and fp16 neither vanish nor overflow."""
    return [local(weight).to(torch.promote_types(weight.dtype, torch.float32)) for weight in weights]


def _is_dtensor(tensor: Tensor) -> bool:
    return hasattr(tensor, "placements")
