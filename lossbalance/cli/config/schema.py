"""Schema of the configuration: a value of the wrong type is refused with its key."""

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from omegaconf import MISSING, OmegaConf

from lossbalance.cli.config.task_schema import open_arguments, task_schema
from lossbalance.cli.config.trainer_schema import Trainer


@dataclass
class Config:
    """Settings of ``conf/train.yaml``, which documents them."""

    task: Any = field(default_factory=task_schema)
    loss: dict[str, Any] = MISSING
    conflict: dict[str, Any] | None = None
    penalty: dict[str, Any] | None = None
    optimizer: dict[str, Any] = MISSING
    trainer: Any = field(default_factory=Trainer)
    logger: dict[str, Any] | None = None
    callbacks: dict[str, Any] | None = None
    alpha: float = 0.5
    weight_sum: float | None = None
    loss_sum: float | None = None
    fixed: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    threads: int | None = 1
    fold: int = 0
    folds: int = 4
    test: Any = "last"
    ckpt_path: str | None = None
    resume: bool = False
    output_dir: str = MISSING


def register() -> None:
    """Registers the types with Hydra: ``schema`` of ``conf/train.yaml``, and those of ``conf/hydra/launcher``."""
    store = ConfigStore.instance()
    schema = OmegaConf.structured(Config)
    open_arguments(schema.task)
    OmegaConf.set_struct(schema.fixed, False)  # the command line adds terms to it
    store.store(name="schema", node=schema)
    plugins = Plugins.instance()  # the launchers that are installed register themselves
    sweeper = import_module("hydra_plugins.lossbalance_grids").GridsSweeper
    if sweeper not in plugins.discover(Sweeper):  # Hydra does not look into packages that are installed as editable
        plugins.register(sweeper)
    launchers = store.repo["hydra"]["launcher"]
    for name in ("submitit_local", "submitit_slurm"):
        if f"{name}.yaml" in launchers:  # a file of ours has that name
            store.store(name=name, node=launchers.pop(f"{name}.yaml").node, group="launcher_types")
