"""The command ``lossbalance eval``: tests a checkpoint of a run."""

import os
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lossbalance.cli.explain import explain

_USAGE = """\
usage: lossbalance eval ckpt_path=outputs/.../checkpoints/best.ckpt [key=value ...]

Tests a checkpoint of a run and prints the metrics. The settings are those of the run, from config.yaml in its
folder; key=value changes one, such as trainer.accelerator=gpu.
"""


def main(overrides: Sequence[str]) -> int | str:
    """Tests the checkpoint that the overrides name; returns the exit code or the message of an error."""
    if not overrides or {"-h", "--help"}.intersection(overrides):
        print(_USAGE, end="")
        return 0
    try:
        given = _parse(overrides)
        evaluate(given.pop("ckpt_path", None), [f"{key}={value}" for key, value in given.items()])
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        return f"error: {explain(error)}\n(HYDRA_FULL_ERROR=1 shows the traceback.)"
    return 0


def evaluate(ckpt_path: str | None, overrides: Sequence[str] = ()) -> dict[str, float]:
    """Returns the test metrics of a checkpoint, and prints them.

    Everything is built as in the run, in the directory that it was started in, which relative paths refer to.

    Args:
        ckpt_path: The checkpoint, in the folder of its run.
        overrides: Settings that differ from those of the run, as ``key=value``.

    Raises:
        ValueError: If it is no checkpoint, its run is not known, a setting does not exist, or there is no test.
    """
    from lossbalance.cli.training.resume_check import read_checkpoint  # imports torch, which takes seconds

    if ckpt_path is None:
        raise ValueError("`ckpt_path` must be given: the checkpoint of a run, ckpt_path=outputs/.../best.ckpt.")
    path = Path(ckpt_path).resolve()
    read_checkpoint(path)
    config = _read_settings(path, overrides)
    with chdir(_started_in(path)):
        return _test(config, path)


def _test(config: DictConfig, path: Path) -> dict[str, float]:
    from lossbalance.callbacks import LossMonitor
    from lossbalance.cli.config.targets import import_from_here
    from lossbalance.cli.training.build import build
    from lossbalance.cli.training.summary_table import show_test
    from lossbalance.cli.training.testing import check_has_test
    from lossbalance.cli.training.train import filter_warnings
    from lossbalance.cli.training.trainer import build_trainer

    filter_warnings()
    import_from_here()
    built = build(config)
    check_has_test(built)
    trainer: Any = build_trainer(config, built.module, built.criterion, [*built.callbacks, LossMonitor(pictures=False)])
    trainer.test(built.module, datamodule=built.data, ckpt_path=path, verbose=False)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    if trainer.is_global_zero:
        show_test(metrics, str(path))
    return metrics


def _parse(overrides: Sequence[str]) -> dict[str, str]:
    wrong = [override for override in overrides if "=" not in override]
    if wrong:
        raise ValueError(f"what follows `eval` must be key=value, got {wrong}.")
    return dict(override.split("=", 1) for override in overrides)


def _read_settings(path: Path, overrides: Sequence[str]) -> DictConfig:
    """Returns the settings of the run that left the checkpoint, without its loggers and callbacks."""
    file = path.parent.parent / "config.yaml"
    if not file.is_file():
        raise ValueError(f"`ckpt_path` must lie in the folder of its run, got {str(path)!r}: there is no {file}.")
    config: Any = OmegaConf.load(file)
    OmegaConf.set_struct(config, True)
    config.merge_with_dotlist(list(overrides))
    config.logger = config.callbacks = None
    config.ckpt_path = str(path)
    return config


def _started_in(path: Path) -> Path:
    """Returns the directory that the run was started in, if that is known and still there."""
    file = path.parent.parent / ".hydra" / "hydra.yaml"
    folder = Path(OmegaConf.load(file).hydra.runtime.cwd) if file.is_file() else Path.cwd()
    return folder if folder.is_dir() else Path.cwd()
