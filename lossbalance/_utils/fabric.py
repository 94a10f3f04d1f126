"""Lightning Fabric: derivatives of the outputs of its modules, ahead of ``fabric.backward``."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_WRAPPERS = ("lightning.fabric.wrappers", "lightning_fabric.wrappers")
_FLAG = "_in_fabric_backward"


@contextmanager
def partial_backward() -> Iterator[None]:
    """Lets ``torch.autograd.grad`` pass the outputs of a Fabric module within the context.

    Under mixed precision Fabric refuses any backward pass but ``fabric.backward``, which scales the loss and steps the
    strategy; a derivative that reaches no ``grad`` of a parameter needs neither.
    """
    modules = [] if torch.compiler.is_compiling() else [sys.modules[name] for name in _WRAPPERS if name in sys.modules]
    before = [(module, getattr(module, _FLAG)) for module in modules if hasattr(module, _FLAG)]
    for module, _ in before:
        setattr(module, _FLAG, True)
    try:
        yield
    finally:
        for module, value in before:
            setattr(module, _FLAG, value)
