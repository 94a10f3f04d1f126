"""Builds what a configuration describes, trains it, and shows what each term did."""

import logging
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import RichProgressBar
from torch import Tensor

from lossbalance.callbacks import LossMonitor
from lossbalance.cli.table import show
from lossbalance.penalties import Penalty
from lossbalance.weighted_loss import WeightedLoss

log = logging.getLogger(__name__)


def train(config: DictConfig, record: dict[str, Any]) -> None:
    """Trains, tests, and notes in ``record`` what came of it, also when training is cut short.

    Args:
        config: The configuration.
        record: The summary of the run; gets ``metrics``, ``objective``, ``weights`` and ``gradient_shares``.

    Raises:
        FileNotFoundError: If there is no checkpoint at ``ckpt_path``.
        KeyboardInterrupt: If training was interrupted.
    """
    _be_quiet()
    _check_usage(config)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    data = instantiate(config.task.data)
    penalties = build_penalties(config)
    as_terms = penalties if penalties and config.penalty.as_term else {}
    config.task.terms = [*config.task.terms, *as_terms]
    criterion = build_criterion(config, {} if as_terms else penalties)
    record["terms"] = list(criterion.terms)
    make = instantiate(config.task.module, _partial_=True)
    module = make(criterion=criterion, optimizer=instantiate(config.optimizer), penalties=as_terms)
    callbacks = build_callbacks(config)
    trainer = build_trainer(config, callbacks)
    try:
        trainer.fit(module, data, ckpt_path=config.ckpt_path)
    except SystemExit as stop:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from stop
    finally:
        _note_fit(trainer, callbacks, criterion, record)
    if config.test:
        trainer.test(module, data, verbose=False)
        record["metrics"] |= _numbers(trainer.callback_metrics)
    show(record)


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
    """Returns the criterion that ``loss``, ``penalty`` and ``weight_sum`` describe."""
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


def _check_usage(config: DictConfig) -> None:
    typed = {override.lstrip("+~").partition("=")[0] for override in HydraConfig.get().overrides.task}
    if "alpha" in typed and "alpha" not in config.loss:
        log.warning("`alpha` is not used by loss=%s; it is by loss=alpha.", HydraConfig.get().runtime.choices["loss"])
    if config.ckpt_path is not None and not Path(config.ckpt_path).is_file():
        raise ValueError(f"`ckpt_path` must be a checkpoint, got {config.ckpt_path!r}, which is not a file.")


def _be_quiet() -> None:
    """Silences what Lightning says of every run; warnings that tell something stay."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for told in (
        "does not have many workers",  # indexing a tensor needs none
        "Experiment logs directory .* exists and is not empty",  # the configuration is there already
        "isinstance\\(treespec, LeafSpec\\)` is deprecated",  # Lightning's own
    ):
        warnings.filterwarnings("ignore", f".*{told}")


def _note_fit(
    trainer: pl.Trainer, callbacks: list[pl.Callback], criterion: WeightedLoss, record: dict[str, Any]
) -> None:
    metrics = _numbers(trainer.callback_metrics)
    record["metrics"] = {name: value for name, value in metrics.items() if name.startswith("val/")}
    record["objective"]["value"] = metrics.get(record["objective"]["name"])
    record["weights"] = _numbers(criterion.weights)
    for callback in callbacks:
        if isinstance(callback, LossMonitor) and callback.last_epoch:
            record["last_epoch"] = callback.last_epoch
            shares = {term: callback.last_epoch[term]["gradient_share"] for term in criterion.terms}
            record["gradient_shares"] = shares


def _numbers(values: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in values.items()}
