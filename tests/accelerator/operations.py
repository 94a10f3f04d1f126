"""Counts what a step asks of its device."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal"}
_NO_KERNEL = {"_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "is_same_size"}


def launches(operation: torch._ops.OpOverload) -> bool:
    """Returns whether an accelerator launches a kernel for the operation: not for a view, nor for memory left unset."""
    if operation.overloadpacket.__name__ in _NO_KERNEL:
        return False
    results = operation._schema.returns
    return not any(result.alias_info is not None and not result.alias_info.is_write for result in results)


def waits(operation: torch._ops.OpOverload) -> bool:
    """Returns whether the host waits until the device has the operation's result."""
    return operation.overloadpacket.__name__ in _WAITS


class Operations(TorchDispatchMode):
    """Counts operations by name, backward passes included, while it is entered.

    Example:
        >>> with Operations() as operations:
        ...     _ = torch.ones(3).view(1, 3).sum()
        >>> operations.launches
        Counter({'ones': 1, 'sum': 1})
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        """The operations that launch a kernel on an accelerator."""
        self.waits: Counter[str] = Counter()
        """Those for whose result the host waits."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if launches(func):
            self.launches[name] += 1
        if waits(func):
            self.waits[name] += 1
        return func(*args, **(kwargs or {}))


def count_added(step: Callable[[], object], plain: Callable[[], object]) -> Counter[str]:
    """Returns which operations ``step`` launches, and how often more than ``plain``; negative where less often."""
    with Operations() as ours:
        step()
    with Operations() as theirs:
        plain()
    ours.launches.subtract(theirs.launches)
    return Counter({name: count for name, count in ours.launches.most_common() if count})
