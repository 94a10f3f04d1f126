"""What must not be differentiated ahead of its backward pass."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lossbalance._utils.distributed import world_size


def check_static_graph(losses: Iterable[Tensor | None]) -> None:
    """Refuses what DistributedDataParallel would take for the first step's backward pass: gradients would go astray.

    Raises:
        ValueError: If the losses come out of a module wrapped with ``static_graph=True``.
    """
    if torch.compiler.is_compiling() or world_size() == 1:
        return
    nodes = [loss.grad_fn for loss in losses if loss is not None]
    seen = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        wrapped = node.ddp_weakref() if hasattr(node, "ddp_weakref") else None  # where the graph leaves its module
        if wrapped is None:
            nodes.extend(before for before, _ in node.next_functions)
        elif wrapped.static_graph:
            raise ValueError(
                "the losses of the first step are differentiated ahead of its backward pass, which "
                "`DistributedDataParallel(static_graph=True)` would take for that pass: call the criterion inside the "
                "wrapped module, or leave `static_graph` False."
            )
