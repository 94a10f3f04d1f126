"""The command ``lossbalance search``: hyperparameter search with Optuna; each trial is a run with its own folder."""

import argparse
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import optuna
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, open_dict
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lossbalance.cli import run
from lossbalance.cli.config.objective import check_given, set_direction
from lossbalance.cli.config.overrides import complete
from lossbalance.cli.config.schema import register
from lossbalance.cli.explain import explain
from lossbalance.cli.runs import record
from lossbalance.cli.runs.program import needs_program
from lossbalance.cli.runs.progress import format_remaining, format_result
from lossbalance.cli.search.space import check_space, parse, suggest
from lossbalance.cli.search.study import check_name, name_study, open_study, search_definition
from lossbalance.sweeps.comparison import lower_is_better
from lossbalance.sweeps.report import ReportOptions, write_report

log = logging.getLogger(__name__)

_PRUNING = (
    "+callbacks.pruning._target_=lossbalance.cli.search.pruning.Pruning",
    "+callbacks.pruning.metric=${task.objective.name}",
)
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class Search:
    """A search: what is fixed, what varies, and the metrics.

    Args:
        fixed: Overrides of all trials, as on the command line of ``lossbalance train``.
        space: The search space, in Hydra's syntax of sweeps.
        metrics: The metrics of a trade-off; empty for the objective of the task.
        folder: Parent of the trials' folders.
    """

    fixed: Sequence[str]
    space: Sequence[Override]
    metrics: Sequence[str]
    folder: Path

    def objective(self, trial: optuna.Trial) -> float | list[float]:
        """Trains as the trial suggests; returns its objective, or the metrics of the trade-off.

        Raises:
            optuna.TrialPruned: If the trial was stopped early.
            Exception: Any error of the run; the trial keeps its message.
        """
        folder = self.folder / str(trial.number)
        try:
            overrides = [*self.fixed, *suggest(trial, self.space)]
            trial.set_user_attr("command", shlex.join(overrides))
            return self._judge(trial, self._train(trial, overrides, folder), folder)
        except KeyboardInterrupt:
            trial.set_user_attr("message", "interrupted")
            raise
        except Exception as error:
            pruned = isinstance(error, optuna.TrialPruned)
            trial.set_user_attr("message", str(error) if pruned else explain(error))
            if pruned:
                record.write(folder, record.read(folder) | {"status": "pruned"})
            raise

    def _judge(self, trial: optuna.Trial, objective: float, folder: Path) -> float | list[float]:
        metrics = record.read(folder)["metrics"]
        missing = [name for name in self.metrics if name not in metrics]
        if missing:
            trial.study.stop()  # no trial has it
            raise ValueError(
                f"`--trade-off` must name metrics of the runs, got {missing}: there are {sorted(metrics)}."
            )
        return [metrics[name] for name in self.metrics] or objective

    def _train(self, trial: optuna.Trial, overrides: list[str], folder: Path) -> float:
        from lossbalance.cli.search.pruning import Pruning  # imports torch

        Pruning.trial = trial
        pruning = [] if self.metrics else _PRUNING  # Optuna prunes by one objective only
        config = compose("train", [*overrides, *pruning, f"output_dir='{folder}'"], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
            if needs_program(config) and not self.metrics:
                del config.callbacks["pruning"]  # the study is not known to other processes
        return run(config)


def search(given: argparse.Namespace) -> int:
    """Runs ``lossbalance search`` with these arguments; returns the exit code."""
    register()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # failures are printed at the end
    try:
        with initialize_config_module("lossbalance.conf", version_base="1.3"):
            return _search(given)
    except KeyboardInterrupt:
        print("Stopped; the same command resumes.", file=sys.stderr)
        return 130
    except Exception as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 1


def _search(given: argparse.Namespace) -> int:
    fixed, space = parse(complete(given.overrides))
    check_space(fixed, space)
    config = compose("train", fixed)
    check_given(config)
    set_direction(config)
    objective = _objective(given.trade_off, config)
    definition = search_definition(fixed, space, objective)
    name = name_study(definition, config.task.name) if given.study is None else check_name(given.study)
    folder = Path("searches", name).resolve()
    study = open_study(
        name,
        definition,
        given.storage,
        folder,
        sampler=optuna.samplers.NSGAIISampler() if given.trade_off else optuna.samplers.TPESampler(),
        pruner=optuna.pruners.MedianPruner(n_warmup_steps=5),
    )
    search = Search(fixed, space, given.trade_off, folder)
    if len(study.get_trials(states=_ENDED)) < given.trials:
        enough = optuna.study.MaxTrialsCallback(given.trials, states=_ENDED)
        seconds = None if given.minutes is None else 60 * given.minutes
        report = partial(_print_trial, folder=folder, trials=given.trials, space=space, started=time.time())
        study.optimize(search.objective, timeout=seconds, callbacks=[report, enough], catch=(Exception,))
    return _conclude(study, folder, ReportOptions(trade_off=given.trade_off or None))


def _print_trial(
    study: optuna.Study, trial: FrozenTrial, folder: Path, trials: int, space: Sequence[Override], started: float
) -> None:
    """Prints the line of a trial that has ended."""
    all_ended = study.get_trials(deepcopy=False, states=_ENDED)
    recent = sum(_began(other) >= started for other in all_ended)
    searched = {override.get_key_element() for override in space}
    overrides = [
        override for override in trial.user_attrs.get("command", "").split() if override.partition("=")[0] in searched
    ]
    rest = format_remaining((time.time() - started) / max(recent, 1) * (trials - len(all_ended)))
    shown = [
        " ".join(overrides),
        format_result(record.read(folder / str(trial.number))),
        f"{_seconds(trial):.0f} s",
        rest,
    ]
    print("  ".join(filter(None, [f"{len(all_ended)}/{trials}", *shown, rest])), flush=True)


def _began(trial: FrozenTrial) -> float:
    return trial.datetime_start.timestamp() if trial.datetime_start else 0.0


def _seconds(trial: FrozenTrial) -> float:
    return trial.duration.total_seconds() if trial.duration else 0.0


def _objective(metrics: Sequence[str], config: DictConfig) -> dict[str, StudyDirection]:
    """Returns the direction of each metric that trials are compared by."""
    if not metrics:
        return {config.task.objective.name: StudyDirection[config.task.objective.direction.upper()]}
    if metrics[0] == metrics[1]:
        raise ValueError(f"`--trade-off` must name two metrics, got {metrics[0]!r} twice.")
    low, high = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE
    return {name: low if lower_is_better(name) else high for name in metrics}


def _conclude(study: optuna.Study, folder: Path, options: ReportOptions) -> int:
    """Prints the best trials and writes the report of all; returns the exit code."""
    for trial in study.get_trials(states=(TrialState.FAIL,)):
        print(
            f"Trial {trial.number} failed: {trial.user_attrs.get('message', 'not a finite objective')}", file=sys.stderr
        )
    completed, pruned, failed = (len(study.get_trials(states=(state,))) for state in _ENDED)
    print(f"\nThe study {study.study_name!r}: {completed} completed, {pruned} pruned, {failed} failed.")
    if not completed:
        return 1
    best = [f"{_values(trial)}  lossbalance train {trial.user_attrs['command']}" for trial in study.best_trials]
    print("\n".join(dict.fromkeys(best)))
    write_report([folder], options=options)
    print(f"The whole report: {folder / 'report.html'}")
    return 0


def _values(trial: FrozenTrial) -> str:
    return " ".join(f"{value:.4g}" for value in trial.values)
