"""Validation of settings, before anything is imported or written."""

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig

from lossbalance._utils.checks import check_integer, check_number, did_you_mean
from lossbalance.cli.config.schema import Config

_GROUPS = ("task", "loss", "optimizer", "trainer")  # mandatory
_MOST_SEED = 2**32 - 1  # what numpy takes
_NAME = re.compile(r"\w[\w.-]*")


def check_groups(choices: Mapping[str, str | None]) -> None:
    """Checks that every mandatory group has a choice.

    Raises:
        ValueError: If one has none.
    """
    for group in _GROUPS:
        if choices.get(group) is None:
            raise ValueError(f"`{group}` must be chosen, got none: leave out ~{group}; --help lists the choices.")


def check_task_name(config: DictConfig) -> None:
    """Checks that the name of the task can be that of a folder.

    Raises:
        ValueError: If it cannot.
    """
    if not isinstance(config.task.name, str) or not _NAME.fullmatch(config.task.name):
        raise ValueError(
            f"`task.name` must be of letters, digits, dots and dashes, got {config.task.name!r}: folders are called so."
        )


def check_settings(config: DictConfig) -> None:
    """Checks settings that no constructor would check in time.

    Raises:
        TypeError: If a setting is of another type.
        ValueError: If it is out of range, contradicts another one, or would have no effect.
    """
    check_task_name(config)
    check_integer("seed", config.seed, 0, _MOST_SEED)
    _check_unknown(config)
    _check_terms(config.task)
    _check_trainer(config.trainer, early="early_stopping" in (config.callbacks or {}))
    _check_optimizer(config.optimizer)
    _check_penalty(config.penalty or {})


def _check_unknown(config: DictConfig) -> None:
    """Refuses keys that were added by ``+`` or deleted by ``~``."""
    known = [field.name for field in fields(Config)]
    for key in map(str, config):
        if key not in known:
            raise ValueError(f"`{key}` is not a setting{did_you_mean(key, known)}: there are {known}.")
    for key in known:
        if key not in config:
            raise ValueError(f"`{key}` must have a value, got none: leave out ~{key}.")
    for key in config.penalty or {}:
        if key != "as_term" and "_target_" not in config.penalty:
            raise ValueError(f"`penalty.{key}` is not a setting yet: choose `penalty=...` first; --help lists them.")


def _check_terms(task: DictConfig) -> None:
    """Checks that terms and targets are lists, and that the terms of a table are its targets."""
    for key in ("targets", "terms"):
        if key in task and not isinstance(task[key], ListConfig):
            raise TypeError(f"`task.{key}` must be a list of names, got {task[key]!r}: write 'task.{key}=[...]'.")
    if "targets" in task and sorted(map(str, task.terms)) != sorted(map(str, task.targets)):
        raise ValueError(
            f"`task.terms` must name each term of `task.targets` once, got {list(task.terms)} for {list(task.targets)}."
        )


def _check_trainer(trainer: Any, early: bool) -> None:
    for key, least in (("accumulate_grad_batches", 1), ("check_val_every_n_epoch", 1), ("log_every_n_steps", 0)):
        if isinstance(trainer.get(key), int | float):
            check_integer(f"trainer.{key}", trainer[key], least)
    _check_finite(trainer, "trainer", ("gradient_clip_val",))
    for key in ("limit_train_batches", "limit_val_batches", "val_check_interval"):
        if trainer.get(key) == 0:
            raise ValueError(f"`trainer.{key}` must be above 0, got 0: a run trains, and is judged by its validation.")
    _check_end(trainer, early)
    epochs, every = trainer.max_epochs, trainer.get("check_val_every_n_epoch")
    if isinstance(every, int) and 0 < (epochs or 0) < every:
        raise ValueError(
            f"`trainer.check_val_every_n_epoch` must be at most trainer.max_epochs={epochs}, got {every}: a run is "
            "judged by its validation."
        )


def _check_end(trainer: Any, early: bool) -> None:
    """Checks that training ends at some time, and not before it begins."""
    if trainer.max_epochs == 0:
        check_integer("trainer.max_epochs", trainer.max_epochs, 1)
    if trainer.max_steps != -1:
        check_integer("trainer.max_steps", trainer.max_steps, 1)
    ends = early or trainer.max_steps != -1 or trainer.max_time is not None or trainer.fast_dev_run
    if trainer.max_epochs in (None, -1) and not ends:
        raise ValueError(
            f"`trainer.max_epochs` must be a whole number, 1 or more, got {trainer.max_epochs}: training would not "
            "end; or give trainer.max_steps, trainer.max_time or callbacks=early_stopping."
        )


def _check_optimizer(optimizer: Mapping[str, Any]) -> None:
    _check_finite(optimizer, "optimizer", ("lr", "weight_decay", "momentum", "eps"))


def _check_finite(settings: Mapping[str, Any], group: str, keys: tuple[str, ...]) -> None:
    for key in keys:
        if settings.get(key) is not None:
            number = check_number(f"{group}.{key}", settings[key], "a number, 0 or more", lambda n: n >= 0)
            check_number(f"{group}.{key}", number, "a finite number, 0 or more", math.isfinite)


def _check_penalty(penalty: Mapping[str, Any]) -> None:
    typed = {override.lstrip("+").partition("=")[0] for override in HydraConfig.get().overrides.task}
    strengths = typed & {"penalty.strength", "penalty.l1", "penalty.l2"}
    if penalty.get("share") is not None and "penalty.strength" in strengths:
        raise ValueError(
            f"`penalty.share` must stand alone, got {penalty['share']} with penalty.strength={penalty['strength']}: "
            "a share has no strength to choose."
        )
    if penalty.get("as_term") and penalty.get("mode", "loss") != "loss":
        raise ValueError(
            f"`penalty.mode` must be 'loss' with penalty.as_term=true, got {penalty['mode']!r}: a term is a part of "
            "the loss, weighed by the scheme."
        )
