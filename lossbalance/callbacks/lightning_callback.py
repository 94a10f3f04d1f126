"""The base of the callbacks, under both names of Lightning."""

from contextlib import suppress
from importlib import import_module
from typing import Any

from pytorch_lightning import Callback

_OtherCallback: Any = object
with suppress(ImportError):
    _OtherCallback = import_module("lightning.pytorch").Callback


class LightningCallback(Callback, _OtherCallback):
    """A callback of ``pytorch_lightning`` and, where that is installed, of ``lightning.pytorch``.

    Both names hold the same code twice, and ``LightningCLI`` takes only subclasses of its own ``Callback``. What the
    two define is the same; that of ``pytorch_lightning`` counts.
    """
