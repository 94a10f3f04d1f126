"""Construction of the trainer, its loggers and its progress bar."""

import logging
import sys
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from lossbalance._utils.extras import named_extras
from lossbalance.cli.config.trainer_schema import Trainer
from lossbalance.cli.training.libraries import library_of
from lossbalance.cli.training.progress_bar import make_progress_bar
from lossbalance.criterion.weighted_loss import WeightedLoss


def build_trainer(
    config: DictConfig, module: pl.LightningModule, criterion: WeightedLoss, callbacks: list[pl.Callback]
) -> pl.Trainer:
    """Returns the trainer of the module's library with its loggers and, on a terminal, a progress bar."""
    library = library_of(module)
    logging.getLogger(library.__name__).setLevel(logging.WARNING)
    logging.getLogger(f"{library.__name__}.profilers").setLevel(logging.INFO)  # that is how they print
    shows_progress = config.trainer.enable_progress_bar
    if shows_progress is None:
        shows_progress = sys.stdout.isatty()
    if shows_progress:
        callbacks = [*callbacks, make_progress_bar(library, criterion, config.task.objective.name)]
    settings = {**config.trainer, "_target_": f"{library.__name__}.Trainer", "enable_progress_bar": shows_progress}
    if settings["enable_checkpointing"] is None:  # else Lightning would keep checkpoints of its own
        settings["enable_checkpointing"] = any(isinstance(each, library.callbacks.Checkpoint) for each in callbacks)
    loggers = build_loggers(config)
    try:
        return instantiate(settings, callbacks=callbacks, logger=loggers)
    except Exception as error:
        named = _name_argument(error, config)
        raise named from (error if named is not error else error.__cause__)


def build_loggers(config: DictConfig) -> list[Any]:
    """Returns the loggers of the configuration."""
    with named_extras():
        return [instantiate(logger) for logger in (config.logger or {}).values()]


def log_settings(trainer: pl.Trainer, settings: dict[str, Any]) -> None:
    """Sends the settings of the run to each logger."""
    for logger in trainer.loggers:
        logger.log_hyperparams(settings)


def close_loggers(trainer: pl.Trainer) -> None:
    """Closes loggers that stay open until the process ends."""
    for logger in trainer.loggers if trainer.is_global_zero else ():
        finish = getattr(getattr(logger, "experiment", None), "finish", None)
        if callable(finish):
            finish()


def _name_argument(error: Exception, config: DictConfig) -> Exception:
    """Returns the error with the argument of the Trainer that it concerns, as far as it can be identified.

    That is one that the text names or else quotes, overridden ones first.
    """
    cause = error.__cause__ or error
    text = str(cause).strip()
    standard = Trainer()
    changed = [str(key) for key, value in config.trainer.items() if value != getattr(standard, str(key), None)]
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    typed = [key for key in changed if any(override.lstrip("+").startswith(f"trainer.{key}") for override in overrides)]
    quoted = [key for key in changed if config.trainer[key] is not None and str(config.trainer[key]) in text]
    for known in (typed, changed):
        for key in [*(key for key in known if key in text), *(key for key in known if key in quoted)]:
            return ValueError(f"`trainer.{key}`, got {config.trainer[key]!r}: {text}")
    return ValueError(f"`trainer.{typed[0]}`, got {config.trainer[typed[0]]!r}: {text}") if len(typed) == 1 else error
