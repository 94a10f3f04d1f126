"""What a scheme is shown of a step: losses or gradient norms, averaged over ranks by one collective."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lossbalance._utils.distributed import sum_over_ranks, world_size
from lossbalance.gradients.gauges import Part
from lossbalance.gradients.norms import squared_norms
from lossbalance.gradients.probes import Probes
from lossbalance.weighting.base import Observation, Weighting, observe_norms


class Watch(NamedTuple):
    """What a gradient scheme's look at a step has found."""

    measures: bool
    """Whether what the probes measure in this step is still to be seen."""
    broken: Tensor
    """Whether a loss, on any rank, is not finite, ``[]``."""
    norms: Tensor | None = None
    """The norms by ``shared``, ``[terms]``; None where probes measure them."""


def observe_losses(observe: Callable[[Observation], None], row: Tensor, present: Tensor) -> None:
    """Shows a scheme the losses of the step at hand.

    Args:
        observe: What is shown the observation.
        row: The losses ``[terms]``, detached; 0 where a term is absent.
        present: Whether the step has the term, ``[terms]``.
    """
    (seen,), broken = average_over_ranks([Part(row, present.to(row.dtype), present)], _is_broken(row))
    losses, norms = seen
    observe(Observation(losses, norms, ~broken & norms.bool()))


def observe_gradients(
    weighting: Weighting,
    observe: Callable[[Observation], None],
    probes: Probes,
    losses: Sequence[Tensor | None],
    row: Tensor,
    present: Tensor,
    shared: Tensor | Iterable[Tensor] | None,
) -> Watch:
    """Shows a scheme the gradient norms of the step before, or of the step at hand where they are due now.

    Args:
        weighting: The scheme.
        observe: What is shown the observations.
        probes: Have measured the step before, and will measure this one.
        losses: The losses, or None for an absent term.
        row: The same as a row ``[terms]``, detached; 0 where a term is absent.
        present: Whether the step has the term, ``[terms]``.
        shared: What norms are taken with respect to in place of the probes, or None.

    Returns:
        What was found.
    """
    given = [term for term, loss in zip(weighting.terms, losses, strict=True) if loss is not None]
    if shared is not None:
        if not probes.begun:  # and not at every step, for it walks the graph
            _check_static_graph(weighting, losses)
            probes.begun = True
        norms = squared_norms(losses, [_check_shared(shared)] * len(losses)).sqrt()
        (now,), broken = average_over_ranks([Part(row, norms, present)], _is_broken(row))
        observe(observe_norms(*now, ~broken))
        return Watch(False, broken, now[1])
    _check_probed(weighting, probes, given)
    ahead = None
    if not probes.known.issuperset(given):
        _check_static_graph(weighting, losses)
        ahead = probes.measure(losses)
    parts = [probes.gauges.measured()]
    if ahead is not None:
        parts.append(Part(row, ahead, present))
    elif world_size() > 1:  # another rank may have something to tell
        parts.append(Part(row, row, torch.zeros_like(present)))
    (before, *after), broken = average_over_ranks(parts, _is_broken(row))
    for seen in [probes.gauges.settle(*before), *after]:
        observe(observe_norms(*seen, ~broken))
    probes.gauges.begin()
    if ahead is not None:
        probes.learn(given, ~broken & ahead.isfinite().all())
    return Watch(ahead is None, broken)


def average_over_ranks(parts: Sequence[Part], broken: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Returns what all ranks together know, by one collective; without other ranks, what this one does.

    The gradient of a mean over R ranks is one R-th of each rank's gradient, side by side; so the square of its norm is
    the sum of the ranks' squares over R squared.

    Args:
        parts: What this rank knows of one or more steps.
        broken: Whether something on this rank is not finite, ``[]``.

    Returns:
        The losses and norms of each step, and whether something on any rank is not finite.
    """
    if world_size() == 1:
        return [(losses, norms) for losses, norms, _ in parts], broken
    rows = torch.stack([_pack(*part) for part in parts])
    sums = sum_over_ranks(torch.cat([rows.flatten(), broken.to(rows.dtype).unsqueeze(0)]))
    return [_unpack(row) for row in sums[:-1].view_as(rows)], sums[-1] > 0


def _pack(losses: Tensor, norms: Tensor, present: Tensor) -> Tensor:
    present = present != 0
    squares = torch.where(present, norms.to(losses.dtype).square(), 0.0)
    return torch.stack([torch.where(present, losses, 0.0), squares, present.to(losses.dtype)])


def _unpack(sums: Tensor) -> tuple[Tensor, Tensor]:
    losses, squares, ranks = sums.unbind()
    return losses / ranks.clamp(min=1), squares.sqrt() / world_size()


def _is_broken(row: Tensor) -> Tensor:
    return (row - row).any()  # nan, and so true, where a loss is not finite


def _check_probed(weighting: Weighting, probes: Probes, given: list[str]) -> None:
    unprobed = [term for term in given if term not in probes.probed]
    if unprobed:
        raise ValueError(
            f"{type(weighting).__name__} needs the gradients of {unprobed}, and found no probe. Mark the "
            f'activation where the branch of a term begins, `h = criterion.probe("{unprobed[0]}", h)`, '
            f"or call `criterion.probe_inputs`; or give `shared=`, the tensors or parameters that the terms share."
        )


def _check_static_graph(weighting: Weighting, losses: Sequence[Tensor | None]) -> None:
    """Refuses what DistributedDataParallel would take for the first step's backward pass: gradients would go astray."""
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
        elif wrapped.static_graph and not wrapped._static_graph_delay_allreduce_enqueued:
            raise ValueError(
                f"{type(weighting).__name__} differentiates the losses of the first step ahead of its backward pass, "
                "which `DistributedDataParallel(static_graph=True)` would take for that pass: call the criterion "
                "inside the wrapped module, or leave `static_graph` False."
            )


def _check_shared(shared: Tensor | Iterable[Tensor]) -> list[Tensor]:
    tensors = [shared] if isinstance(shared, Tensor) else list(shared)
    if not tensors or not all(isinstance(tensor, Tensor) and tensor.requires_grad for tensor in tensors):
        raise ValueError(
            f"`shared` must be one or more tensors that require a gradient, got {len(tensors)} of which some do not."
        )
    return tensors
