"""Deferred initialization: modules made on the meta device get their values later."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn


class DeferredModule(nn.Module):
    """A module whose tensors follow from the arguments of its constructor, and can be derived from them anew.

    On the meta device tensors have no values. Whoever moves them from there, as ``to_empty`` does, gets anything; and a
    state that is assigned to them lacks those that are not saved. Both are set right, here or by :meth:`derive`.

    The tensors are made in fp32, or wider where that is the default dtype of torch, but never in half precision.
    """

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remembers the arguments."""
        made = super().__new__(cls)
        made.__dict__["_arguments"] = args, kwargs
        return made

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Makes the tensors of the constructor in fp32 or wider."""
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _in_full_precision(cls.__init__)  # type: ignore[method-assign]

    def reset_parameters(self) -> None:
        """Gives each tensor the value that it has when the module is made."""
        self._fill(self._tensors())

    def derive(self) -> None:
        """Gives each tensor that no state holds its value."""
        self._fill(self._non_persistent_buffers_set & self._tensors().keys())

    def _tensors(self) -> dict[str, Tensor]:
        return dict(chain(self.named_parameters(recurse=False), self.named_buffers(recurse=False)))

    @torch.no_grad()
    def _fill(self, names: Iterable[str]) -> None:
        """Derives some tensors, on the device where the module is."""
        own, args, kwargs = self._tensors(), *self._arguments
        device = next((tensor.device for tensor in own.values() if not tensor.is_meta), torch.device("cpu"))
        with torch.device("cpu"):
            made = type(self)(*args, **kwargs)
        for name in names:
            value = getattr(made, name).to(device, own[name].dtype)
            if own[name].is_meta:
                setattr(self, name, nn.Parameter(value) if isinstance(own[name], nn.Parameter) else value)
            else:
                own[name].copy_(value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        had_no_values = any(tensor.is_meta for tensor in self._tensors().values())
        super()._apply(fn, recurse)
        if had_no_values:
            self._fill([name for name, tensor in self._tensors().items() if not tensor.is_meta])
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        without = [name for name, tensor in self._tensors().items() if tensor.is_meta]
        if len(without) < len(self._tensors()):
            self._fill(without)


def _in_full_precision(init: Callable[..., None]) -> Callable[..., None]:
    """Returns the constructor such that it runs with a default dtype of fp32 or wider."""

    @wraps(init)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        with full_precision():
            init(*args, **kwargs)

    return wrapped


@contextmanager
def full_precision() -> Iterator[None]:
    """Sets a default dtype of half precision to fp32 within the context."""
    default = torch.get_default_dtype()
    if default.itemsize >= torch.float32.itemsize:
        yield
        return
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)
