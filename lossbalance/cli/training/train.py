"""Training of a configuration: fit, test, record, summary."""

import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from lossbalance._utils.checks import check_integer, check_number
from lossbalance._utils.files import write_text
from lossbalance.callbacks import LossMonitor
from lossbalance.callbacks.keys import OF_PAIRS, names_of
from lossbalance.callbacks.keys import key as log_key
from lossbalance.cli.config.objective import check_logged
from lossbalance.cli.config.targets import import_from_here
from lossbalance.cli.training.build import Built, build, build_callbacks
from lossbalance.cli.training.checkpoints import BestAndLast, why_unlogged
from lossbalance.cli.training.libraries import LIBRARIES
from lossbalance.cli.training.resume_check import check_checkpoint, check_optimizer
from lossbalance.cli.training.summary_table import show
from lossbalance.cli.training.testing import check_test, test_network
from lossbalance.cli.training.trainer import build_trainer, close_loggers, log_settings

log = logging.getLogger(__name__)


@dataclass
class Training:
    """The validated objects of a configuration, before anything is written."""

    built: Built
    callbacks: list[pl.Callback]
    trainer: pl.Trainer
    test: str | None
    settings: str


def prepare(config: DictConfig) -> Training:
    """Builds and validates the objects of a configuration."""
    filter_warnings()
    _check_usage(config)
    settings = OmegaConf.to_yaml(config, resolve=True)
    if config.threads is not None:
        torch.set_num_threads(check_integer("threads", config.threads, 1))
    import_from_here()
    built = build(config)
    if built.callbacks:
        _warn_without_effect(config.task, built.module)
    check_optimizer(config)
    if config.ckpt_path is not None:
        check_checkpoint(config, built.module)
    callbacks = [*built.callbacks, *build_callbacks(config)]
    test = check_test(config.test, callbacks)
    for callback in callbacks:
        if isinstance(callback, BestAndLast):
            callback.criterion = built.criterion
    trainer = build_trainer(config, built.module, built.criterion, callbacks)
    return Training(built, callbacks, trainer, test, settings)


def train(config: DictConfig, record: dict[str, Any], training: Training | None = None) -> None:
    """Trains, tests, and completes the record, also when training is interrupted.

    Args:
        config: The configuration.
        record: The summary of the run; gets ``terms``, ``metrics``, ``objective``, ``weights``,
            ``gradient_shares``, ``conflicts``, ``last_epoch`` and ``diagnoses``.
        training: The objects of the configuration, where they are built already.

    Raises:
        KeyboardInterrupt: If training was interrupted.
    """
    training = prepare(config) if training is None else training
    trainer = training.trainer
    record["terms"] = list(training.built.criterion.terms)
    if trainer.is_global_zero:
        Path(config.output_dir).mkdir(parents=True, exist_ok=True)
        write_text(Path(config.output_dir) / "config.yaml", training.settings)
    log_settings(trainer, record["config"])
    if (description := getattr(training.built.data, "description", None)) and _is_single(trainer):
        log.info(description)
    try:
        _fit_and_test(config, training, record)
    finally:
        close_loggers(trainer)
    if _is_single(trainer):
        _print_summary(record, _from_here(config.output_dir))


def _print_summary(record: dict[str, Any], folder: Path) -> None:
    """Prints the tables of a run; a terminal that does not take them is no failure of the run."""
    try:
        show(record)
        if record["weights"] and record["loss"] not in ("equal", "fixed"):
            weights = ", ".join(f"{term}: {weight:.4g}" for term, weight in record["weights"].items())
            print(f"The last weights, fixed: loss=fixed 'loss.weights={{{weights}}}'")
        print(f"Written to {folder}", flush=True)
    except Exception as error:
        log.warning("The summary cannot be printed (%s); it is in %s.", type(error).__name__, folder)


def _from_here(path: str) -> Path:
    """Returns a path relative to the current folder where possible."""
    return Path(path).relative_to(Path.cwd()) if Path(path).is_relative_to(Path.cwd()) else Path(path)


def _is_single(trainer: pl.Trainer) -> bool:
    """Whether this is rank 0 of a single run (not of a sweep)."""
    return trainer.is_global_zero and HydraConfig.get().mode == RunMode.RUN


def _fit_and_test(config: DictConfig, training: Training, record: dict[str, Any]) -> None:
    trainer, (data, module, _, _) = training.trainer, training.built
    try:
        trainer.fit(module, datamodule=data, ckpt_path=config.ckpt_path)
    except SystemExit as stop:  # raised by Lightning after Ctrl-C
        if _is_single(trainer):
            _print_resume_command(_from_here(config.output_dir))
        raise KeyboardInterrupt from stop
    finally:
        _record_metrics(trainer, training.callbacks, record)
        record["weights"] = _last_weights(training)
    check_logged(record["objective"]["name"], record["metrics"], why_unlogged(trainer, record["objective"]["name"]))
    test_network(training.test, trainer, training.built, record)


def _print_resume_command(folder: Path) -> None:
    last = folder / "checkpoints" / "last.ckpt"
    if last.exists():
        print(f"Interrupted. To resume, add to the same command: hydra.run.dir={folder} ckpt_path={last}")


def _last_weights(training: Training) -> dict[str, float]:
    """Returns the weights of the last step; those of the checkpoint where no step was left to train."""
    criterion = training.built.criterion
    kept = [callback.weights for callback in training.callbacks if isinstance(callback, BestAndLast)]
    if criterion.last_step() is None and any(kept):
        return kept[0]
    return _numbers(criterion.weights)


def _check_usage(config: DictConfig) -> None:
    """Warns of settings without effect, before anything is built."""
    if "alpha" in _overridden() and "alpha" not in config.loss:
        choice = HydraConfig.get().runtime.choices["loss"]
        check_number("alpha", config.alpha, "a number in [0, 1]", lambda number: 0 <= number <= 1)
        log.warning("`alpha` has no effect with loss=%s; it has with loss=alpha.", choice)
    if HydraConfig.get().runtime.choices.get("optimizer") == "sgd" and not {"optimizer.lr", "task.lr"} & _overridden():
        log.warning("optimizer=sgd takes `task.lr`, %g, which suits Adam: try optimizer.lr=0.05.", config.task.lr)
    devices, most = config.trainer.devices, os.cpu_count() or 1
    if config.trainer.accelerator == "cpu" and isinstance(devices, int) and devices > most:
        raise ValueError(f"`trainer.devices` must be at most {most}, the number of this machine's CPUs, got {devices}.")


def _warn_without_effect(task: DictConfig, module: pl.LightningModule) -> None:
    """Warns of settings that have no effect on a module of the user's own."""
    if any(key.partition(".")[0] == "optimizer" for key in _overridden()):
        log.warning(
            "`optimizer` has no effect: %s has its own `configure_optimizers`; task.module.<name>= are its arguments.",
            type(module).__name__,
        )
    for key in sorted({"fold", "folds"} & _overridden()):
        if f"${{{key}}}" not in OmegaConf.to_yaml(task.data):
            log.warning("`%s` has no effect: the data do not use it; 'task.data.%s=${%s}' would.", key, key, key)


def _overridden() -> set[str]:
    """Returns the keys overridden on the command line."""
    return {override.lstrip("+").partition("=")[0] for override in HydraConfig.get().overrides.task}


def filter_warnings() -> None:
    """Silences messages that Lightning prints in every run."""
    for library in LIBRARIES:  # both log under the name imported last
        logging.getLogger(library).setLevel(logging.WARNING)
    for message in (
        "The `srun` command is available on your system",  # nobody has asked for SLURM
        "does not have many workers",  # indexing a tensor needs no worker
        "Experiment logs directory .* exists and is not empty",  # it has the configuration
        "Checkpoint directory .* exists and is not empty",  # a resumed run
        "The number of training batches .* is smaller than the logging interval",  # epochs are logged anyway
        "callbacks used to create the checkpoint need to be provided",  # not for a test
        "`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # Lightning's own
    ):
        warnings.filterwarnings("ignore", f".*{message}")


def _record_metrics(trainer: pl.Trainer, callbacks: list[pl.Callback], record: dict[str, Any]) -> None:
    """Records the unweighted metrics, and the last epoch of the terms."""
    metrics = _numbers(trainer.callback_metrics)
    record["objective"]["value"] = metrics.get(record["objective"]["name"])
    for callback in callbacks:
        if isinstance(callback, LossMonitor):
            means = callback.history[-1] if callback.history else {}
            metrics = {name: value for name, value in metrics.items() if name not in means or name.startswith("zeros/")}
            record["last_epoch"] = callback.last_epoch
            record["diagnoses"] = callback.diagnoses
            record["conflicts"] = _conflicts(means)
            record["gradient_shares"] = {name: means["gradient_share"] for name, means in callback.last_epoch.items()}
    record["metrics"] = metrics


def _conflicts(means: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Returns the mean cosine of each pair of terms, and the fraction of steps in which they conflict."""
    pairs = names_of("cosine", means)
    return {pair: {quantity: means[log_key(quantity, pair)] for quantity in OF_PAIRS} for pair in pairs}


def _numbers(values: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in values.items()}
