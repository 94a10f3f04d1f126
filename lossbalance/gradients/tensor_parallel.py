"""Tensor parallelism: ranks that hold the same gradients, found by the device meshes of DTensors."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from lossbalance._utils.distributed import Ranks
from lossbalance.gradients.data_parallel import walk


def find_replicas(losses: Iterable[Tensor | None], ranks: Ranks) -> None:
    """Counts the ranks that compute the same losses as this one, from the graph of the losses.

    DTensors in the graph, or parameters that are DTensors, compute one thing on all ranks of their mesh. What
    ``fully_shard`` splits is whole when it is used, and does not count.
    """
    if torch.compiler.is_compiling() or ranks.size == 1:
        return
    nodes = walk(loss.grad_fn for loss in losses if loss is not None)
    meshes = {id(mesh): mesh for node in nodes for mesh in _meshes(node)}
    same = {rank for mesh in meshes.values() for rank in mesh.mesh.flatten().tolist()}
    ranks.replicas = max(ranks.replicas, len(same.intersection(ranks.members())))


def _meshes(node: Any) -> Iterator[Any]:
    """Yields the device meshes at a parameter, and where an ordinary tensor becomes a DTensor or the other way."""
    parameter, spec = getattr(node, "variable", None), getattr(node, "dtensor_spec", None)
    for holder, name in ((parameter, "device_mesh"), (node, "previous_device_mesh"), (spec, "mesh")):
        mesh = getattr(holder, name, None)
        if mesh is not None:
            yield mesh
