"""The command ``lossbalance eval``: tests a checkpoint of a run."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lossbalance.cli.config.trust import check_trusted
from lossbalance.cli.explain import explain

_USAGE = """\
usage: lossbalance eval ckpt_path=outputs/.../checkpoints/best.ckpt [key=value ...]

Tests a checkpoint of a run and prints the metrics. The settings are those of the run, from config.yaml in its folder.

  trainer.accelerator=gpu   or another argument of the Trainer; threads=4
  task.path=other.csv       of task=table: tests all rows of another table, with the scales and classes of the training
  task.data.samples=100     of task=module: an argument of the data or of the module
  trust=true                runs code that the run names and that is not of an installed package
"""
_FREE = ("trainer.", "threads")  # without influence on data and network


def main(overrides: Sequence[str]) -> int | str:
    """Tests the checkpoint that the overrides name; returns the exit code or the message of an error."""
    if not overrides or {"-h", "--help"}.intersection(overrides):
        print(_USAGE, end="")
        return 0

    def work() -> None:
        given = parse(overrides)
        evaluate(given.pop("ckpt_path", None), [f"{key}={value}" for key, value in given.items()])

    return reported(work)


def reported(work: Callable[[], object]) -> int | str:
    """Calls ``work``; returns the exit code, or the message of its error."""
    try:
        work()
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        return f"error: {explain(error)}\n(HYDRA_FULL_ERROR=1 shows the traceback.)"
    return 0


def parse(overrides: Sequence[str]) -> dict[str, str]:
    """Returns overrides by key.

    Raises:
        ValueError: If one is not ``key=value``, or a key is given twice.
    """
    wrong = [override for override in overrides if "=" not in override[1:]]
    if wrong:
        raise ValueError(f"the arguments must be key=value, got {wrong}.")
    keys = [override.partition("=")[0] for override in overrides]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise ValueError(f"`{twice[0]}` must be given once, got it {keys.count(twice[0])} times.")
    return dict(override.split("=", 1) for override in overrides)


def evaluate(ckpt_path: str | None, overrides: Sequence[str] = ()) -> dict[str, float]:
    """Returns the test metrics of a checkpoint, and prints them.

    Everything is built as in the run, in the directory that it was started in, which relative paths refer to.

    Args:
        ckpt_path: The checkpoint, in the folder of its run.
        overrides: Settings that differ from those of the run, as ``key=value``; ``trust=true`` allows code that is not
            installed.

    Raises:
        ValueError: If it is no checkpoint, its run or its table is not known, a setting does not exist or cannot
            differ, code is not trusted, or there is no test.
    """
    from lossbalance.cli.training.resume_check import read_checkpoint  # imports torch, which takes seconds

    if ckpt_path is None:
        raise ValueError("`ckpt_path` must be given: the checkpoint of a run, ckpt_path=outputs/.../best.ckpt.")
    path = Path(ckpt_path).resolve()
    checkpoint = read_checkpoint(path)
    trust = "trust=true" in overrides
    config, changed = _read_settings(path, [override for override in overrides if override != "trust=true"])
    check_trusted(config, trust)
    with chdir(_started_in(path)):
        return _test(config, checkpoint, trust, other_table="task.path" in changed)


def _test(config: DictConfig, checkpoint: Mapping[str, Any], trust: bool, other_table: bool) -> dict[str, float]:
    from lossbalance.callbacks import LossMonitor
    from lossbalance.cli.config.targets import import_from_here
    from lossbalance.cli.training.build import build
    from lossbalance.cli.training.data import build_table
    from lossbalance.cli.training.resume_check import check_data, check_network
    from lossbalance.cli.training.summary_table import show_test
    from lossbalance.cli.training.testing import check_has_test
    from lossbalance.cli.training.train import filter_warnings
    from lossbalance.cli.training.trainer import build_trainer

    filter_warnings()
    if trust:
        import_from_here()
    path = Path(config.ckpt_path)
    built = build(config, build_table(config.task.data, checkpoint) if other_table else None)
    check_data(path, checkpoint, built.module)
    check_network(path, checkpoint, built.module)
    check_has_test(built)
    trainer: Any = build_trainer(config, built.module, built.criterion, [*built.callbacks, LossMonitor(pictures=False)])
    trainer.test(built.module, datamodule=built.data, ckpt_path=path, verbose=False)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    if trainer.is_global_zero:
        show_test(metrics, str(path))
    return metrics


def _read_settings(path: Path, overrides: Sequence[str]) -> tuple[DictConfig, set[str]]:
    """Returns the settings of the run that left the checkpoint, and the keys that differ from them.

    Raises:
        ValueError: If the run has no settings, or one would differ that has no effect on a test, or changes its rows.
    """
    file = path.parent.parent / "config.yaml"
    if not file.is_file():
        raise ValueError(f"`ckpt_path` must lie in the folder of its run, got {str(path)!r}: there is no {file}.")
    config: Any = OmegaConf.load(file)
    free = _FREE if _is_ours(config) else (*_FREE, "task.data.", "task.module.")
    if config.task.data.get("_target_") == "lossbalance.tasks.table.TableData":
        free = (*free, "task.path", "task.thousands")
    OmegaConf.set_struct(config, True)
    for part in ("data", "module"):
        OmegaConf.set_struct(config.task[part], False)
    changed = set()
    for override in overrides:
        key = override.partition("=")[0]
        before = _plain(config, key)
        config.merge_with_dotlist([override])
        if _plain(config, key) == before and not key.startswith("task.path"):
            continue
        if not key.startswith(free):
            raise ValueError(
                f"`{key}` must be {before!r}, as in the run, got {override.partition('=')[2]!r}: a test takes "
                f"{', '.join(f'{name}...' if name.endswith('.') else name for name in free)}."
            )
        changed.add(key)
    if "task.path" in changed:
        config.task.path = config.task.data.path = str(Path(str(config.task.path)).resolve())
    if "task.thousands" in changed:
        config.task.data.thousands = config.task.thousands
    config.logger = config.callbacks = None
    config.ckpt_path = str(path)
    return config, changed


def _plain(config: DictConfig, key: str) -> Any:
    value = OmegaConf.select(config, key)
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _is_ours(config: DictConfig) -> bool:
    return str(config.task.data.get("_target_", "")).startswith("lossbalance.")


def _started_in(path: Path) -> Path:
    """Returns the directory that the run was started in, if that is known and still there."""
    file = path.parent.parent / ".hydra" / "hydra.yaml"
    folder = Path(OmegaConf.load(file).hydra.runtime.cwd) if file.is_file() else Path.cwd()
    return folder if folder.is_dir() else Path.cwd()
