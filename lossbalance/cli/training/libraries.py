"""Lightning under its two import names, whose modules and trainers do not mix."""

import sys
from types import ModuleType
from typing import Any

LIBRARIES = ("pytorch_lightning", "lightning.pytorch")


def library_of(made: object) -> ModuleType:
    """Returns the library whose LightningModule an object is.

    Raises:
        TypeError: If it is none.
    """
    for name in LIBRARIES:
        library = sys.modules.get(name)  # no object is of a library that is not imported
        if library is not None and isinstance(made, library.LightningModule):
            return library
    kind = f"{type(made).__module__}.{type(made).__qualname__}"
    raise TypeError(f"`task.module._target_` must make a LightningModule, got an object of {kind}.")


def defines(made: Any, method: str) -> bool:
    """Whether a module or its data override a method of Lightning's."""
    owner = getattr(getattr(made, method, None), "__module__", "")
    return owner.partition(".")[0] not in ("", "pytorch_lightning", "lightning")
