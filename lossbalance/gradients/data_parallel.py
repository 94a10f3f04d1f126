"""DistributedDataParallel: checks and unused parameters of a step."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lossbalance._utils.distributed import Ranks, world_size


def active_wrapper() -> DistributedDataParallel | None:
    """Returns the wrapper whose forward pass is running; None outside of one."""
    if torch.compiler.is_compiling() or world_size() == 1:
        return None
    return DistributedDataParallel._active_ddp_module


def find_wrapper(module: nn.Module | None, probed: DistributedDataParallel | None) -> DistributedDataParallel | None:
    """Returns the data-parallel wrapper that a step goes through, where one can be seen.

    Args:
        module: The module that the criterion was given, or None.
        probed: The wrapper in whose forward pass a probe was met, or None.
    """
    if torch.compiler.is_compiling() or world_size() == 1:
        return None
    return module if isinstance(module, DistributedDataParallel) else active_wrapper() or probed


def check_even_inputs(wrapper: DistributedDataParallel | None) -> None:
    """Refuses to observe a step where other ranks may have none.

    Raises:
        ValueError: If the wrapper lets ranks run out of data, by ``join()``.
    """
    if wrapper is None or not wrapper._join_config.enable or wrapper._join_config.throw_on_early_termination:
        return
    raise ValueError(
        "a rank that is out of data misses the collective in which ranks bring together what they saw, so "
        "`DistributedDataParallel.join()` cannot be used: give every rank as many batches as the others, such as by "
        "`drop_last=True`, or call `join(throw_on_early_termination=True)`."
    )


def check_static_graph(losses: Iterable[Tensor | None]) -> None:
    """Refuses what DistributedDataParallel would take for the first step's backward pass: gradients would go astray.

    Raises:
        ValueError: If the losses come out of a module wrapped with ``static_graph=True``.
    """
    if torch.compiler.is_compiling() or world_size() == 1:
        return
    for node in walk(loss.grad_fn for loss in losses if loss is not None):
        wrapped = node.ddp_weakref() if hasattr(node, "ddp_weakref") else None  # where the graph leaves its module
        if wrapped is not None and wrapped.static_graph:
            raise ValueError(
                "the losses of the first step are differentiated ahead of its backward pass, which "
                "`DistributedDataParallel(static_graph=True)` would take for that pass: call the criterion inside the "
                "wrapped module, or leave `static_graph` False."
            )


def average_learned(
    module: nn.Module, wrapper: DistributedDataParallel | None, averaged: set[int], ranks: Ranks
) -> None:
    """Lets the gradients of a module's parameters be averaged over ranks, where the data-parallel wrapper does not.

    Args:
        module: What learns, such as a scheme.
        wrapper: The wrapper that the step goes through, or None.
        averaged: The identities of the parameters that have been considered; grows.
        ranks: The ranks.
    """
    for parameter in module.parameters():
        if id(parameter) in averaged or not parameter.requires_grad:
            continue
        averaged.add(id(parameter))
        wrapped = () if wrapper is None else wrapper.module.parameters()
        if not any(parameter is other for other in wrapped):
            parameter.register_hook(partial(_average, ranks))


def _average(ranks: Ranks, gradient: Tensor) -> Tensor:
    return ranks.sum(gradient) / ranks.size if ranks.size > 1 else gradient


def touch_unused(total: Tensor, wrapper: DistributedDataParallel) -> Tensor:
    """Returns the total, whose backward pass brings zeros to each parameter that the step does not use.

    The wrapper waits for the gradients of all of them, unless it looks for unused ones itself.
    """
    if wrapper.find_unused_parameters or wrapper.static_graph or not wrapper.require_backward_grad_sync:
        return total
    used = set()
    for node in walk([total.grad_fn]):
        if "CheckpointFunction" in node.name():  # it hides what it uses
            return total
        used.add(id(getattr(node, "variable", None)))
    unused = [parameter for parameter in _parameters(wrapper) if id(parameter) not in used]
    return _Touch.apply(total, *unused) if unused else total


def walk(nodes: Iterable[Any]) -> Iterator[Any]:
    """Returns the nodes of the graph that ``nodes`` were computed from, each once, themselves included."""
    waiting, seen = list(nodes), set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting.extend(before for before, _ in node.next_functions)


def _parameters(wrapper: DistributedDataParallel) -> list[nn.Parameter]:
    ignored = wrapper.parameters_to_ignore
    return [each for name, each in wrapper.module.named_parameters() if each.requires_grad and name not in ignored]


class _Touch(torch.autograd.Function):
    """The identity on the total; the parameters get zeros."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, *parameters: Tensor) -> Tensor:
        ctx.parameters = parameters
        return total.view_as(total)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return grad, *(torch.zeros_like(parameter) for parameter in ctx.parameters)
