"""The commands ``lossbalance predict`` and ``lossbalance export``: use of a trained table network."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lossbalance._utils.checks import check_flag, did_you_mean
from lossbalance.cli.evaluate import parse, reported

_PREDICT = """\
usage: lossbalance predict ckpt_path=outputs/.../checkpoints/best.ckpt task.path=new.csv [key=value ...]

Writes the predictions of a task=table run for the rows of a table, in order, in the units and classes of the targets.

  output=new_predictions.csv   the file to write; by default named like the table, in the current directory
  probabilities=true           adds the probability of each class
  task.thousands="','"         the thousands separator of numbers in the table
  trust=true                   allows a network of a class that is not from this library
"""
_EXPORT = """\
usage: lossbalance export ckpt_path=outputs/.../checkpoints/best.ckpt [output=model.pt2]

Writes the network of a task=table run with its scaling by torch.export. torch.export.load("model.pt2").module() runs
it without this package; schema.json in the file says in which order it takes the columns.

  trust=true                   allows a network of a class that is not from this library
"""


def predict(overrides: Sequence[str]) -> int | str:
    """Runs ``lossbalance predict``; returns the exit code or the message of an error."""
    keys = ("ckpt_path", "task.path", "output", "probabilities", "task.thousands", "trust")
    return _run(overrides, _PREDICT, keys, _predict)


def export(overrides: Sequence[str]) -> int | str:
    """Runs ``lossbalance export``; returns the exit code or the message of an error."""
    return _run(overrides, _EXPORT, ("ckpt_path", "output", "trust"), _export)


def _run(
    overrides: Sequence[str], usage: str, keys: Sequence[str], work: Callable[[dict[str, Any]], None]
) -> int | str:
    if not overrides or {"-h", "--help"}.intersection(overrides):
        print(usage, end="")
        return 0
    return reported(lambda: work(_settings(overrides, keys)))


def _settings(overrides: Sequence[str], keys: Sequence[str]) -> dict[str, Any]:
    """Returns the settings by key.

    Raises:
        ValueError: If one is unknown, or ``ckpt_path`` is missing.
    """
    given = parse(overrides)
    for key in given:
        if key not in keys:
            raise ValueError(f"`{key}` is not a setting{did_you_mean(key, keys)}: there are {list(keys)}.")
    for key in ("ckpt_path", "task.path"):
        if key in keys and not given.get(key):
            raise ValueError(f"`{key}` must be given: {key}=...")
    typed = OmegaConf.to_container(OmegaConf.from_dotlist([f"{key.replace('.', '_')}={given[key]}" for key in given]))
    assert isinstance(typed, dict)
    flags = {key: check_flag(key, typed.get(key, False)) for key in ("probabilities", "trust")}
    return {**given, **flags}


def _predict(settings: dict[str, Any]) -> None:
    from lossbalance._utils.files import replacing  # torch is imported below, which takes seconds
    from lossbalance.tasks.table.read import read_table

    source = Path(settings["task.path"])
    thousands = settings.get("task.thousands")
    table = read_table(str(source), thousands.strip("'\"") if thousands else None)
    output = _output(settings, f"{source.name.partition('.')[0]}_predictions.csv", (".csv",))
    if output.resolve() == source.resolve():
        raise ValueError(f"`output` must be another file than task.path, got {str(output)!r}.")
    predictor = _load(settings)
    predictions = predictor.predict(table, settings["probabilities"])
    for name, texts in predictor.unknown_categories(table).items():
        print(
            f"Column {name!r} has {len(texts)} texts that no training row has, such as {texts[0]!r}.", file=sys.stderr
        )
    with replacing(output) as part:
        predictions.to_csv(part, index=False)
    print(f"{len(predictions)} rows written to {output}")


def _export(settings: dict[str, Any]) -> None:
    from lossbalance.tasks.table.export import export

    output = _output(settings, "model.pt2", (".pt2",))
    predictor = _load(settings)
    export(predictor, output)
    print(f'Written to {output}: torch.export.load("{output}").module() takes the columns {predictor.schema.columns}.')


def _load(settings: dict[str, Any]) -> Any:
    from lossbalance.cli.training.resume_check import read_checkpoint
    from lossbalance.tasks.table import load

    path = Path(settings["ckpt_path"])
    read_checkpoint(path)
    try:
        return load(path, trust=settings["trust"])
    except ValueError as error:
        raise ValueError(str(error).replace("`run`", "`ckpt_path`", 1).replace("trust=True", "trust=true")) from error


def _output(settings: dict[str, Any], default: str, suffixes: Sequence[str]) -> Path:
    """Returns the file to write.

    Raises:
        ValueError: If its folder does not exist, it is a folder, or has another suffix.
    """
    path = Path(settings.get("output") or default)
    if path.suffix not in suffixes or path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"`output` must be a {suffixes[0]} file in a folder that exists, got {str(path)!r}.")
    return path
