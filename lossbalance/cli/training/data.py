"""Data of a task: a LightningDataModule, or DataLoaders."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from lossbalance.cli.config.targets import find_target, make
from lossbalance.tasks.base import FINGERPRINT

log = logging.getLogger(__name__)
_PARTS = ("train", "val", "test")


def build_data(settings: DictConfig) -> Any:
    """Builds the data from ``task.data``.

    Raises:
        ValueError: If its target cannot be called with its arguments.
    """
    find_target("task.data", settings, "a LightningDataModule, or of a function that returns DataLoaders,")
    return make(settings)


def build_table(settings: DictConfig, checkpoint: Mapping[str, Any]) -> Any:
    """Returns the data of a table for the test of a checkpoint.

    The table of the training is split as it was then. Of another one all rows are for the test, encoded as in the
    training.

    Raises:
        ValueError: If the checkpoint has no schema, a column is missing, or a value is not of its kind or class.
    """
    from lossbalance.tasks.table.schema import TableSchema, differences, other_units

    fingerprint = checkpoint.get(FINGERPRINT)
    if not fingerprint:
        raise ValueError("`task.path` must be that of the run: its checkpoint, of an earlier version, has no scales.")
    with suppress(ValueError):
        data = make(settings)
        if not differences(fingerprint, data.schema.state()):
            return data
    schema = TableSchema.from_state(fingerprint)
    arguments: Any = OmegaConf.to_container(settings, resolve=True)
    data = find_target("task.data", settings, "a table")(
        **{key: value for key, value in arguments.items() if key != "_target_"}, schema=schema
    )
    print(f"All {len(data.parts['test'])} rows of {settings.path} are tested, with the scales of the training.")
    for warning in other_units(schema, data.sets["test"].labels):
        log.warning(warning)
    return data


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
