"""The types of the configuration, so that a wrong one is refused with its key."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import MISSING, OmegaConf

from lossbalance.cli.task_schema import open_arguments, task_schema


@dataclass
class Trainer:
    """The arguments of ``pytorch_lightning.Trainer``, with its defaults, but for what the other groups make."""

    _target_: str = "pytorch_lightning.Trainer"
    accelerator: str = "auto"
    strategy: str = "auto"
    devices: Any = "auto"
    num_nodes: int = 1
    precision: Any = None
    max_epochs: int | None = None
    min_epochs: int | None = None
    max_steps: int = -1
    min_steps: int | None = None
    max_time: str | None = None
    fast_dev_run: Any = False
    overfit_batches: Any = 0.0
    limit_train_batches: Any = None
    limit_val_batches: Any = None
    limit_test_batches: Any = None
    val_check_interval: Any = None
    check_val_every_n_epoch: int | None = 1
    num_sanity_val_steps: int | None = None
    log_every_n_steps: int | None = None
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: str | None = None
    deterministic: Any = None
    benchmark: bool | None = None
    detect_anomaly: bool = False
    sync_batchnorm: bool = False
    profiler: str | None = None
    enable_model_summary: bool | None = None
    enable_progress_bar: bool | None = None  # None: where the output is a terminal


@dataclass
class Config:
    """What ``conf/train.yaml`` and the command line fill in; the comments are there."""

    task: Any = field(default_factory=task_schema)
    loss: dict[str, Any] = MISSING
    penalty: dict[str, Any] | None = None
    optimizer: dict[str, Any] = MISSING
    trainer: Trainer = field(default_factory=Trainer)
    logger: dict[str, Any] | None = None
    callbacks: dict[str, Any] | None = None
    alpha: float = 0.5
    weight_sum: float | None = None
    loss_sum: float | None = None
    seed: int = 0
    threads: int | None = 1
    fold: int = 0
    folds: int = 4
    test: Any = "last"
    ckpt_path: str | None = None
    resume: bool = False
    output_dir: str = MISSING


def register() -> None:
    """Makes the types known to Hydra: ``schema`` of ``conf/train.yaml``, and those of ``conf/hydra/launcher``."""
    store = ConfigStore.instance()
    schema = OmegaConf.structured(Config)
    open_arguments(schema.task)
    store.store(name="schema", node=schema)
    Plugins.instance()  # the launchers that are installed register themselves
    launchers = store.repo["hydra"]["launcher"]
    for name in ("submitit_local", "submitit_slurm"):
        if f"{name}.yaml" in launchers:  # a file of ours has that name
            store.store(name=f"{name}_schema", node=launchers.pop(f"{name}.yaml").node, group="hydra/launcher")
