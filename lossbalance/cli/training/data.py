"""Data of a task: a LightningDataModule, or DataLoaders."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from omegaconf import DictConfig
from torch.utils.data import DataLoader

from lossbalance.cli.config.targets import find_target, make

_PARTS = ("train", "val", "test")


def build_data(settings: DictConfig) -> Any:
    """Builds the data from ``task.data``.

    Raises:
        ValueError: If its target cannot be called with its arguments.
    """
    find_target("task.data", settings, "a LightningDataModule, or of a function that returns DataLoaders,")
    return make(settings)


def as_datamodule(made: Any, library: ModuleType) -> Any:
    """Returns the data as a LightningDataModule of the library that trains.

    Raises:
        TypeError: If they are neither that nor DataLoaders.
    """
    if isinstance(made, library.LightningDataModule):
        return made
    loaders = _by_part(made)
    if loaders is None:
        raise TypeError(
            f"`task.data._target_` must make a LightningDataModule of {library.__name__}, as the module is, or "
            "DataLoaders as (train, val) or (train, val, test) or {'train': ..., 'val': ..., 'test': ...}, got an "
            f"object of {type(made).__module__}.{type(made).__qualname__}."
        )
    methods = {f"{part}_dataloader": lambda self, loader=loader: loader for part, loader in loaders.items()}
    return type("Loaders", (library.LightningDataModule,), methods)()


def _by_part(made: Any) -> dict[str, Any] | None:
    if isinstance(made, DataLoader):
        made = [made]
    if isinstance(made, tuple | list) and 1 <= len(made) <= len(_PARTS):
        made = dict(zip(_PARTS, made, strict=False))
    if isinstance(made, Mapping) and "train" in made and made.keys() <= set(_PARTS):
        return dict(made) if all(isinstance(loader, DataLoader) for loader in made.values()) else None
    return None
