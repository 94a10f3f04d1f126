"""Validation of a checkpoint before resuming."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from lossbalance.tasks.base import FINGERPRINT, TaskModule

_WHOLE = ("state_dict", "optimizer_states", "loops", "epoch", "global_step", "callbacks")  # what Lightning saves
_FREE = ("trainer.", "callbacks.", "logger.", "ckpt_path", "output_dir", "resume", "test", "threads")  # may differ


def check_checkpoint(config: DictConfig, module: nn.Module) -> None:
    """Checks that ``ckpt_path`` is a whole checkpoint of this module, with at most ``trainer.max_epochs`` epochs.

    Raises:
        ValueError: If it is not.
    """
    path = Path(config.ckpt_path)
    checkpoint = read_checkpoint(path)
    check_data(path, checkpoint, module)
    problem = _misfit(checkpoint["state_dict"], module.state_dict()) or _other_optimizer(config, module, checkpoint)
    if problem:
        raise ValueError(
            f"`ckpt_path` must be of the same network, scheme and optimizer, got {str(path)!r}: {problem}"
            f"{_settings_that_differ(config, path)}."
        )
    done, most = _epochs(checkpoint), config.trainer.max_epochs
    if most is not None and 0 <= most < done:
        raise ValueError(
            f"`trainer.max_epochs` must be at least {done}, the epochs that {str(path)!r} has, got {most}: "
            "more of them, or an earlier checkpoint."
        )


def check_data(path: Path, checkpoint: Mapping[str, Any], module: nn.Module) -> None:
    """Checks that the data have the columns, kinds, scales and classes that a checkpoint was trained on.

    Raises:
        ValueError: If they have not; the message has the differences.
    """
    fingerprint = checkpoint.get(FINGERPRINT)
    found = module.differences(fingerprint) if fingerprint and isinstance(module, TaskModule) else []
    if found:
        raise ValueError(
            f"`task.path` must be the table that the checkpoint was trained on, {str(path)!r}; it differs: "
            f"{'; '.join(found[:4])}{f'; and {len(found) - 4} more' if len(found) > 4 else ''}."
        )


def check_network(path: Path, checkpoint: Mapping[str, Any], module: nn.Module) -> None:
    """Checks that a checkpoint is of this network.

    Raises:
        ValueError: If parameters or buffers of the network differ; the message names them.
    """
    own = {name: value for name, value in module.state_dict().items() if not name.startswith("criterion.")}
    saved = {name: value for name, value in checkpoint["state_dict"].items() if not name.startswith("criterion.")}
    if problem := _misfit(saved, own):
        raise ValueError(f"`ckpt_path` must be of the same network, got {str(path)!r}: {problem}.")


def check_optimizer(config: DictConfig) -> torch.optim.Optimizer | None:
    """Builds the optimizer of a dummy parameter, to validate its settings; None if the module builds its own.

    Raises:
        ValueError: If it cannot.
    """
    if not config.optimizer.get("_partial_"):
        return None
    try:
        return instantiate(config.optimizer)([nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        raise ValueError(f"`optimizer` must be what {config.optimizer._target_} takes: {error}.") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Loads a checkpoint; one that would run code is refused.

    Raises:
        ValueError: If there is no such file, it is broken, holds more than tensors and numbers, or is no checkpoint.
    """
    if not path.is_file():
        raise ValueError(f"`ckpt_path` must be a checkpoint, got {str(path)!r}, which is not a file.")
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise ValueError(f"`ckpt_path` must be a checkpoint, got {str(path)!r}: {_unpickled(path, error)}.") from error
    except Exception as error:  # a broken file can raise anything
        raise ValueError(f"`ckpt_path` must be a checkpoint, got {str(path)!r}: {_broken(path)}.") from error
    if not isinstance(checkpoint, dict) or any(key not in checkpoint for key in _WHOLE):
        raise ValueError(
            f"`ckpt_path` must be a whole checkpoint, got {str(path)!r}, which lacks the state of the training: "
            "checkpoints/last.ckpt in the folder of a run has it."
        )
    return checkpoint


def _unpickled(path: Path, error: pickle.UnpicklingError) -> str:
    if "Unsupported" in str(error) or "Can only" in str(error):
        return "it holds more than tensors and numbers, and to load that could run code"
    return _broken(path)


def _broken(path: Path) -> str:
    if path.stat().st_size == 0:
        return "the file is empty"
    with path.open("rb") as file:
        if file.read(2) == b"PK" and not zipfile.is_zipfile(path):
            return "the file is cut off, or damaged"
    return "the file is none that torch.save wrote, or damaged"


def _misfit(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Describes parameters and buffers that do not match; empty where all do."""
    problems = []
    for what, names in (("lacks", own.keys() - saved.keys()), ("has in addition", saved.keys() - own.keys())):
        if names:
            problems.append(f"it {what} {_some(names)}")
    fixed = [name for name in own if name in saved and not name.endswith("_extra_state")]  # that may grow
    for name in [name for name in fixed if saved[name].shape != own[name].shape][:1]:
        problems.append(f"`{name}` is {list(saved[name].shape)} there and {list(own[name].shape)} here")
    return "; ".join(problems)


def _other_optimizer(config: DictConfig, module: nn.Module, checkpoint: Mapping[str, Any]) -> str:
    """Describes a mismatch between the optimizers; empty where there is none."""
    if not config.optimizer or not config.optimizer.get("_partial_") or not isinstance(module, TaskModule):
        return ""  # other modules build their own optimizer
    here = instantiate(config.optimizer)([nn.Parameter(torch.zeros(1))]).state_dict()["param_groups"][0]
    for there in (group for state in checkpoint["optimizer_states"][:1] for group in state["param_groups"][:1]):
        decoupled = "decoupled_weight_decay"  # distinguishes AdamW from Adam
        if here.keys() - there.keys() or here.get(decoupled) != there.get(decoupled):
            return f"its optimizer is not {config.optimizer._target_}"
    return ""


def _settings_that_differ(config: DictConfig, path: Path) -> str:
    """Lists the settings that differ from those of the checkpoint's run, as far as its folder records them."""
    file = path.parent.parent / "config.yaml"
    if not file.is_file():
        return ""
    there, here = (
        _flatten(OmegaConf.load(file)),
        _flatten(OmegaConf.create(OmegaConf.to_container(config, resolve=True))),
    )
    keys = [key for key in sorted({*there, *here}) if there.get(key) != here.get(key) and not key.startswith(_FREE)]
    differing = [f"{key}={there.get(key)} there, {here.get(key)} here" for key in keys[:5]]
    return f" ({'; '.join(differing)})" if differing else ""


def _flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, DictConfig) else {f"{prefix}{key}": value}
    return flat


def _epochs(checkpoint: Mapping[str, Any]) -> int:
    """Returns the number of completed epochs."""
    return checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]


def _some(names: Any, most: int = 3) -> str:
    shown = ", ".join(f"`{name}`" for name in sorted(names)[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
