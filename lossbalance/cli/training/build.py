"""Construction of data, module and criterion from the configuration."""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lossbalance._utils.checks import check_choice, check_number
from lossbalance.callbacks import BalanceLosses
from lossbalance.cli.config.targets import find_target, make
from lossbalance.cli.training.data import as_datamodule, build_data
from lossbalance.cli.training.libraries import library_of
from lossbalance.cli.training.penalty_terms import add_penalty_terms
from lossbalance.criterion.weighted_loss import WeightedLoss
from lossbalance.penalties import Penalty
from lossbalance.tasks.base import TaskModule

log = logging.getLogger(__name__)
_PLACES: tuple[tuple[str, type, str], ...] = (
    ("probes", dict, "a mapping of terms to submodules, as in 'task.probes={aux: net.aux_head}'"),
    ("branch", str, "the name of a submodule, as in task.branch=net.trunk"),
    ("shared", list, "a list of names of parameters, as in 'task.shared=[net.trunk.weight]'"),
)
_ALL_PARAMETERS = (
    "The norms are those of the gradients by all parameters, at one more backward pass for each term; `task.probes`%s "
    "would need none."
)


class Built(NamedTuple):
    """The objects of a training."""

    data: Any
    module: pl.LightningModule
    criterion: WeightedLoss
    callbacks: list[pl.Callback]
    """Callbacks that the module needs in addition to the configured ones."""

    @property
    def is_ours(self) -> bool:
        """Whether data and module are of a task of this library."""
        return isinstance(self.module, TaskModule)


def build(config: DictConfig, data: Any = None) -> Built:
    """Returns the data and the module with its criterion; a penalty is a term where ``penalty.as_term`` says so.

    A :class:`TaskModule` calls the criterion itself. Any other module is weighted by :class:`BalanceLosses`.

    Args:
        config: The configuration.
        data: The data in place of those of the configuration.
    """
    data = build_data(config.task.data) if data is None else data
    pl.seed_everything(config.seed, workers=True, verbose=False)
    target = find_target("task.module", config.task.module, "a LightningModule")
    penalties = build_penalties(config)
    as_terms = penalties if config.penalty and config.penalty.as_term else {}
    if as_terms and config.conflict:
        raise ValueError(
            "`penalty.as_term` must be false where `conflict` combines gradients, got true: a penalty has none where "
            "the terms part."
        )
    config.task.terms = [*config.task.terms, *as_terms]
    _convert_limits(config.loss, getattr(data, "units", {}))
    criterion = build_criterion(config, {} if as_terms else penalties)
    module, callbacks = _build_module(config, target, data, criterion, as_terms)
    return Built(as_datamodule(data, library_of(module)), module, criterion, callbacks)


def _convert_limits(loss: DictConfig, units: Mapping[str, float]) -> None:
    """Converts limits of losses from the unit of the target to that of the training loss."""
    for term, limit in (loss.get("limits") or {}).items():
        if isinstance(limit, int | float) and not isinstance(limit, bool):
            loss.limits[term] = limit / units.get(str(term), 1.0)


def _build_module(
    config: DictConfig, target: Any, data: Any, criterion: WeightedLoss, as_terms: Mapping[str, Penalty]
) -> tuple[pl.LightningModule, list[pl.Callback]]:
    """Returns the module, and callbacks that it needs in addition to the configured ones."""
    if not (isinstance(target, type) and issubclass(target, TaskModule)):
        module = make(config.task.module)
        library_of(module)
        if as_terms:
            add_penalty_terms(module, as_terms)
        settings = _gradient_places(config)
        if criterion.weighting.uses_gradients and (as_terms or not settings):
            settings.setdefault("shared", [name for name, weight in module.named_parameters() if weight.requires_grad])
            log.info(_ALL_PARAMETERS, " and no penalty as a term" if as_terms else "")
        return module, [BalanceLosses(criterion, **settings)]
    check_number("optimizer.lr", config.optimizer.get("lr", 0.0), "a number, 0 or more", lambda number: number >= 0)
    constructor = instantiate(config.task.module, _partial_=True)
    given = {"criterion": criterion, "optimizer": instantiate(config.optimizer), "penalties": as_terms}
    return constructor(**given, **target.arguments_from(data)), []


def _gradient_places(config: DictConfig) -> dict[str, Any]:
    """Returns the places where the gradients of the terms are measured: probes, branch, shared parameters."""
    settings: Any = OmegaConf.to_container(config.task, resolve=True)
    for key, kind, example in _PLACES:
        if settings.get(key) is not None and not isinstance(settings[key], kind):
            raise TypeError(f"`task.{key}` must be {example}, got {settings[key]!r}.")
    return {key: settings[key] for key, _, _ in _PLACES if settings.get(key)}


def build_penalties(config: DictConfig) -> dict[str, Penalty]:
    """Returns the penalty that ``penalty`` describes, if any, by its name."""
    if "_target_" not in (config.penalty or {}):
        return {}
    settings = {key: value for key, value in config.penalty.items() if key != "as_term"}
    if settings.get("share") is not None and isinstance(settings.get("strength"), float):
        settings["strength"] = None  # the group's default, replaced by the share
    penalty = instantiate(settings)
    return {type(penalty).__name__.lower(): penalty}


def build_criterion(config: DictConfig, penalties: Mapping[str, Penalty]) -> WeightedLoss:
    """Returns the criterion that ``loss``, ``conflict``, ``weight_sum``, ``loss_sum`` and ``fixed`` describe."""
    conflict, fixed = instantiate(config.conflict) if config.conflict else None, dict(config.fixed or {})
    for term in fixed:
        check_choice("fixed", term, config.task.terms)
    loss = OmegaConf.merge(config.loss, {"terms": [term for term in config.task.terms if term not in fixed]})
    sums = {"weight_sum": config.weight_sum, "loss_sum": config.loss_sum}
    return WeightedLoss(instantiate(loss if fixed else config.loss), penalties, **sums, conflict=conflict, fixed=fixed)


def build_callbacks(config: DictConfig) -> list[pl.Callback]:
    """Returns the callbacks of the configuration."""
    return [instantiate(callback) for callback in (config.callbacks or {}).values()]
