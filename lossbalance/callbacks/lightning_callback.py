"""Base class of the callbacks, under both names of Lightning."""

import inspect
from contextlib import suppress
from importlib import import_module
from typing import Any

from lightning_utilities.core import rank_zero
from pytorch_lightning import Callback

_OtherCallback: Any = object
_log = rank_zero.log
with suppress(ImportError):
    _OtherCallback = import_module("lightning.pytorch").Callback
rank_zero.log = _log  # the name that was imported first keeps printing under its own name


class LightningCallback(Callback, _OtherCallback):
    """A callback of ``pytorch_lightning`` and, where that is installed, of ``lightning.pytorch``.

    Both names hold the same code twice, and ``LightningCLI`` takes only subclasses of its own ``Callback``. What the
    two define is the same; that of ``pytorch_lightning`` counts.
    """

    def __repr__(self) -> str:
        settings = [name for name in inspect.signature(type(self).__init__).parameters if name != "self"]
        shown = (f"{name}={' '.join(repr(getattr(self, name)).split())}" for name in settings)
        return f"{type(self).__name__}({', '.join(shown)})"
