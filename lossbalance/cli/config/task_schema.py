"""Schema of the group ``task``: keys of every task; a task's file may add keys, the command line may not."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf


@dataclass
class Objective:
    """The unweighted validation metric that sweeps compare and the best checkpoint is selected by."""

    name: str = MISSING
    direction: str | None = None  # maximize or minimize; None: a loss or an error is to be small, all else large


@dataclass
class Task:
    """Settings of a task."""

    name: str = MISSING
    terms: list[str] = MISSING
    objective: Objective = field(default_factory=Objective)
    lr: float = 0.003
    max_epochs: int = 25
    accelerator: str = "cpu"  # networks as small as those of our tasks are not faster on a GPU
    threads: int | None = 1  # and slower with more threads of the CPU
    data: dict[str, Any] = field(default_factory=dict)
    module: dict[str, Any] = field(default_factory=dict)


def task_schema() -> Any:
    """Returns the typed keys of :class:`Task` as a mapping to which a file in ``conf/task`` can add its own."""
    typed = OmegaConf.structured(Task)
    return OmegaConf.create({key: typed._get_node(key) for key in typed})


def open_arguments(task: DictConfig) -> None:
    """Lets the command line add arguments of the constructors: ``task.module.lr=0.1`` where no file has that key."""
    for key in ("data", "module"):
        OmegaConf.set_struct(task[key], False)
