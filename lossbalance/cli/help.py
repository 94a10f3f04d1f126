"""Help of ``lossbalance train``: groups, choices and settings with the comments of their files."""

import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import takewhile

import yaml
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf, open_dict

from lossbalance.cli.config.schema import register
from lossbalance.cli.config.trainer_schema import trainer_comments
from lossbalance.cli.explain import exit_with_message

_INTRODUCTION = """\
Trains one network on several losses, and shows the weight of each.

  lossbalance train loss=alpha alpha=0.3
  lossbalance train task=raw_pixels loss=gradbalance
  lossbalance train -m loss=alpha 'alpha=range(0,1.01,0.1)' seed=0,1,2 hydra/launcher=joblib
  lossbalance train loss=gradnorm --help        the settings of that choice
  lossbalance train --hydra-help                Hydra's own options, such as -m and --cfg job
"""
Comments = dict[tuple[str, ...], str]


def print_help(overrides: Sequence[str]) -> None:
    """Prints the help for a selection of choices, or the error in it."""
    try:
        print(describe(overrides))
    except Exception as error:
        exit_with_message(error)


def describe(overrides: Sequence[str]) -> str:
    """Returns the help for a selection of choices."""
    register()
    with initialize_config_module("lossbalance.conf", version_base="1.3"):
        config = compose("train", list(overrides), return_hydra_config=True)
    choices = config.hydra.runtime.choices
    with open_dict(config):
        del config["hydra"]
    own = {key: value for key, value in config.items_ex(resolve=False) if not isinstance(value, DictConfig)}
    sections = [
        _INTRODUCTION,
        "== Groups, by group=choice ==\n" + "\n".join(_groups(choices)),
        "== Settings, by key=value ==\n" + _annotate(OmegaConf.create(own), _of_train()),
    ]
    for group in [str(key) for key, value in config.items_ex(resolve=False) if isinstance(value, DictConfig) and value]:
        known = _comments(group, choices.get(group))
        if group == "trainer":
            known = {(key,): comment for key, comment in trainer_comments().items()} | known
        choice = choices.get(group) or ",".join(config[group])
        sections.append(f"{_title(group, choice)}\n{_annotate(config[group], known)}")
    return "\n".join(sections)


def _groups(choices: DictConfig) -> Iterator[str]:
    root = files("lossbalance.conf")
    for folder in sorted(root.iterdir(), key=lambda entry: entry.name):
        options = sorted(entry.name[:-5] for entry in _yaml(folder)) if folder.is_dir() else []
        if options:
            yield f"{folder.name + ':':<12}{' '.join(options)}"


def _annotate(config: DictConfig, comments: Comments) -> str:
    """Writes a configuration as YAML, with a comment behind each key that has one."""
    text = OmegaConf.to_yaml(config)
    lines = text.splitlines()
    for path, line, _ in _keys(text):
        if path in comments:
            lines[line] = f"{lines[line]}  # {comments[path]}"
    return "\n".join(line for line in lines if not re.match(r" *_(target|partial)_:", line)) + "\n"


def _comments(group: str, choice: object) -> Comments:
    """Returns the comment of each key of a group: from the file of the choice, else from any other of the group."""
    folder = files("lossbalance.conf") / group
    found = sorted(_yaml(folder), key=lambda file: (file.name == f"{choice}.yaml", file.name))
    texts = [file.read_text(encoding="utf-8") for file in found]
    comments = {path: comment for text in texts for path, _, comment in _keys(text) if comment}
    return comments | {path[1:]: comment for path, comment in _of_train().items() if path[0] == group and len(path) > 1}


def _of_train() -> Comments:
    text = (files("lossbalance.conf") / "train.yaml").read_text(encoding="utf-8")
    return {path: comment for path, _, comment in _keys(text) if comment}


def _title(group: str, choice: object) -> str:
    """Returns the heading of a section, with the leading comment of the choice's file."""
    file = files("lossbalance.conf") / group / f"{choice}.yaml"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return "\n".join([f"== {group}={choice}, by {group}.key=value ==", *takewhile(lambda line: line[:1] == "#", lines)])


def _keys(text: str) -> Iterator[tuple[tuple[str, ...], int, str]]:
    """Yields each key of a YAML text: its path, its line, and the comment behind it, or else in the line above it."""
    lines = text.splitlines()

    def walk(node: yaml.Node | None, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int, str]]:
        if isinstance(node, yaml.MappingNode) and not node.flow_style:
            for key, value in node.value:
                line = key.start_mark.line
                yield (*path, str(key.value)), line, _comment(lines, line)
                yield from walk(value, (*path, str(key.value)))

    yield from walk(yaml.compose(text), ())


def _comment(lines: list[str], line: int) -> str:
    _, _, behind = lines[line].partition("  # ")
    above = list(takewhile(lambda other: other.lstrip()[:2] == "# ", reversed(lines[:line])))
    is_head = len(above) == line  # of the file
    return behind or ("" if is_head or not above else above[0].lstrip()[2:])


def _yaml(folder: Traversable) -> Iterator[Traversable]:
    return (entry for entry in folder.iterdir() if entry.name.endswith(".yaml"))
