"""What a scheme is shown of a step: losses or gradient norms, averaged over ranks by one collective."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lossbalance.probes import Probes, observation, pack, squared_norms, unpack
from lossbalance.ranks import sum_over_ranks, world_size
from lossbalance.weighting.base import Weighting


def observe_losses(weighting: Weighting, row: Tensor, present: Tensor) -> None:
    """Shows a scheme the losses of the step at hand.

    Args:
        weighting: The scheme.
        row: The losses ``[terms]``, detached; 0 where a term is absent.
        present: Whether the step has the term, ``[terms]``.
    """
    (sums,), finite = _gather([pack(row, torch.ones_like(row), present)], row)
    weighting.observe(observation(unpack(sums), finite))


def observe_gradients(
    weighting: Weighting,
    probes: Probes,
    losses: Sequence[Tensor | None],
    row: Tensor,
    present: Tensor,
    shared: Tensor | Iterable[Tensor] | None,
) -> tuple[Tensor, Tensor] | None:
    """Shows a scheme the gradient norms of the step before, or of the step at hand where they are due now.

    Args:
        weighting: The scheme.
        probes: Have measured the step before, and will measure this one.
        losses: The losses, or None for an absent term.
        row: The same as a row ``[terms]``, detached; 0 where a term is absent.
        present: Whether the step has the term, ``[terms]``.
        shared: What norms are taken with respect to in place of the probes, or None.

    Returns:
        Which terms the probes are to measure in this step and whether every loss is finite; None if they are not to.
    """
    given = [term for term, loss in zip(weighting.terms, losses, strict=True) if loss is not None]
    if shared is not None:
        squares = squared_norms(losses, [_check_shared(shared)] * len(losses))
        (sums,), finite = _gather([pack(row, squares.to(row.dtype), present)], row)
        weighting.observe(observation(unpack(sums), finite))
        return None
    _check_probed(weighting, probes, given)
    ahead = None if probes.known.issuperset(given) else probes.measure(losses).to(row.dtype)
    rows = [probes.measured().to(row.dtype)]
    if ahead is not None:
        rows.append(pack(row, ahead, present))
    elif world_size() > 1:  # another rank may have something to tell
        rows.append(torch.zeros_like(rows[0]))
    (before, *now), finite = _gather(rows, row)
    for seen in [probes.settle(before), *map(unpack, now)]:
        weighting.observe(observation(seen, finite))
    probes.begin()
    if ahead is None:
        return present, finite
    probes.learn(given, finite & ahead.isfinite().all())
    return torch.zeros_like(present), finite  # seen already


def _gather(rows: list[Tensor], row: Tensor) -> tuple[list[Tensor], Tensor]:
    """Returns the rows summed over ranks, and whether every loss of every rank is finite."""
    broken = (row * 0).sum()  # nan, and so it stays when summed
    if world_size() == 1:
        return rows, broken == 0
    sums = sum_over_ranks(torch.cat([torch.stack(rows).flatten(), broken.unsqueeze(0)]))
    return list(sums[:-1].view(len(rows), *rows[0].shape)), sums[-1] == 0


def _check_probed(weighting: Weighting, probes: Probes, given: list[str]) -> None:
    unprobed = [term for term in given if term not in probes.probed]
    if unprobed:
        raise ValueError(
            f"{type(weighting).__name__} needs the gradients of {unprobed}, and found no probe. Mark the "
            f'activation where the branch of a term begins, `h = criterion.probe("{unprobed[0]}", h)`, '
            f"or call `criterion.probe_inputs`; or give `shared=`, the tensors or parameters that the terms share."
        )


def _check_shared(shared: Tensor | Iterable[Tensor]) -> list[Tensor]:
    tensors = [shared] if isinstance(shared, Tensor) else list(shared)
    if not tensors or not all(isinstance(tensor, Tensor) and tensor.requires_grad for tensor in tensors):
        raise ValueError(
            f"`shared` must be one or more tensors that require a gradient, got {len(tensors)} of which some do not."
        )
    return tensors
