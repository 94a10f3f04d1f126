"""Makes what a configuration describes."""

import sys
from collections.abc import Mapping

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import RichProgressBar

from lossbalance._utils.checks import check_number
from lossbalance.penalties import Penalty
from lossbalance.tasks import MultiLossModule
from lossbalance.weighted_loss import WeightedLoss


def build_module(config: DictConfig) -> MultiLossModule:
    """Returns the task's module with its criterion; a penalty is a term of it where ``penalty.as_term`` says so."""
    penalties = build_penalties(config)
    as_terms = penalties if penalties and config.penalty.as_term else {}
    config.task.terms = [*config.task.terms, *as_terms]
    criterion = build_criterion(config, {} if as_terms else penalties)
    check_number("optimizer.lr", config.optimizer.get("lr", 0.0), "a number, 0 or more", lambda number: number >= 0)
    make = instantiate(config.task.module, _partial_=True)
    return make(criterion=criterion, optimizer=instantiate(config.optimizer), penalties=as_terms)


def build_penalties(config: DictConfig) -> dict[str, Penalty]:
    """Returns the penalty that ``penalty`` describes, if any, by its name."""
    if not config.penalty:
        return {}
    settings = {key: value for key, value in config.penalty.items() if key != "as_term"}
    if settings.get("share") is not None and isinstance(settings.get("strength"), float):
        settings["strength"] = None  # the group's default, which a share takes the place of
    penalty = instantiate(settings)
    return {type(penalty).__name__.lower(): penalty}


def build_criterion(config: DictConfig, penalties: Mapping[str, Penalty]) -> WeightedLoss:
    """Returns the criterion that ``loss`` and ``weight_sum`` describe."""
    return WeightedLoss(instantiate(config.loss), penalties, config.weight_sum)


def build_callbacks(config: DictConfig) -> list[pl.Callback]:
    """Returns the callbacks of the configuration and, where the output is a terminal, a progress bar."""
    callbacks = [instantiate(callback) for callback in (config.callbacks or {}).values()]
    return [*callbacks, RichProgressBar(leave=False)] if _shows_progress(config) else callbacks


def build_trainer(config: DictConfig, callbacks: list[pl.Callback]) -> pl.Trainer:
    """Returns the trainer with its loggers."""
    loggers = [instantiate(logger) for logger in (config.logger or {}).values()]
    make = instantiate(config.trainer, _partial_=True)
    return make(
        callbacks=callbacks,
        logger=loggers,
        enable_progress_bar=_shows_progress(config),
        default_root_dir=config.output_dir,
    )


def _shows_progress(config: DictConfig) -> bool:
    wanted = config.trainer.enable_progress_bar
    return sys.stdout.isatty() if wanted is None else wanted
