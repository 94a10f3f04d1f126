"""Process groups: the ranks that train on the same terms, and sums over them."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(seconds=60)
"""How long a rank waits for the others to come to the first collective of a criterion."""


def world_size() -> int:
    """How many processes train together; 1 without ``torch.distributed``."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class Ranks:
    """The ranks that share the terms of a criterion.

    Before the first collective each rank waits until all others are there, a minute at most: where some have no losses,
    as under pipeline parallelism, that is an error instead of a wait without end.

    Args:
        group: A process group; a callable that returns it, called when it is first needed; None for all ranks.

    Raises:
        TypeError: If it is anything else.
    """

    def __init__(self, group: Any = None) -> None:
        if not (group is None or callable(group) or _is_group(group)):
            raise TypeError(
                f"`process_group` must be a process group of torch.distributed, a callable that returns one, or None, "
                f"got {group!r}: of a device mesh, give `mesh['dp'].get_group()`."
            )
        self._given = group
        self._met = False  # whether all ranks have come to a collective
        self.has_warned = False
        self.replicas = 1
        """How many of the ranks hold the same gradients, by tensor parallelism."""

    @property
    def size(self) -> int:
        """How many ranks there are; 1 without ``torch.distributed``."""
        if self._given is None:
            return world_size()
        return dist.get_world_size(self._group()) if world_size() > 1 else 1

    def members(self) -> list[int]:
        """Returns the global ranks."""
        return dist.get_process_group_ranks(self._group()) if world_size() > 1 else [0]

    def sum(self, values: Tensor) -> Tensor:
        """Returns the sum of ``values`` over the ranks, bit-equal on each; one collective, none on a single rank.

        Raises:
            RuntimeError: If a rank does not come to the first one.
        """
        if self.size == 1:
            return values
        if not (self._met or torch.compiler.is_compiling()):
            self._meet()
        total = values.clone()
        dist.all_reduce(total, group=self._group())
        return total

    def _group(self) -> Any:
        if callable(self._given) and not _is_group(self._given):
            self._given = self._given()
        if self._given is dist.GroupMember.NON_GROUP_MEMBER:
            raise ValueError(
                f"`process_group` must hold the ranks that call the criterion, and rank {dist.get_rank()} is not in "
                "it: call the criterion where there are losses, or give a group of all ranks that have some."
            )
        return self._given

    def _meet(self) -> None:
        """Waits for the other ranks, by the store that they have in common."""
        members, rank = self.members(), dist.get_rank()
        store = dist.distributed_c10d._get_default_store()
        key = f"lossbalance/{members}/"
        call = store.add(f"{key}{rank}", 1)  # the ranks meet once for each criterion
        store.set(f"{key}{call}/{rank}", "")
        try:
            store.wait([f"{key}{call}/{other}" for other in members], PATIENCE)
        except RuntimeError as error:  # also DistStoreError
            absent = [other for other in members if not store.check([f"{key}{call}/{other}"])]
            if absent:
                raise RuntimeError(_ABSENT.format(absent=absent, members=members)) from error
        self._met = True

    def __deepcopy__(self, memo: dict[int, Any]) -> "Ranks":
        copied = Ranks(self._given)
        copied.replicas = self.replicas
        return copied

    def __reduce__(self) -> tuple[Callable[[], "Ranks"], tuple[()]]:
        if self._given is not None:
            raise TypeError("a criterion with a `process_group` cannot be pickled: save its `state_dict()`.")
        return Ranks, ()


_ABSENT = (
    "`process_group` must hold the ranks that call the criterion: of {members}, {absent} did not within a minute. "
    "Where only some ranks have losses, as under pipeline parallelism, give their group, "
    "`WeightedLoss(..., process_group=group)`; where a rank is merely late, call `torch.distributed.barrier()` before "
    "the first step."
)


def _is_group(group: object) -> bool:
    return dist.is_available() and (isinstance(group, dist.ProcessGroup) or group is dist.GroupMember.NON_GROUP_MEMBER)
