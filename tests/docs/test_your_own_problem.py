"""The page ``docs/your_own_problem.md`` does what it says, in a folder with nothing but what it says."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.cli.in_process import ROOT, run_here

PAGE = (ROOT / "docs" / "your_own_problem.md").read_text(encoding="utf-8")


def block(language: str, containing: str) -> str:
    """Returns the block of the page that has some words."""
    return next(text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if containing in text)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the module of the page."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_project", raising=False)
    Path("my_project.py").write_text(block("python", "class Net"))
    yield tmp_path
    sys.modules.pop("my_project", None)


def test_the_module_of_the_page_is_trained_by_its_command(folder):
    words = shlex.split(block("bash", "task.module._target_=my_project.Net").replace("\\\n", " "))
    assert words[:2] == ["lossbalance", "train"]
    summary = run_here(folder / "run", *words[2:], "task.max_epochs=2")
    assert summary["objective"]["value"] == summary["metrics"]["val/loss/main"]
    assert summary["gradient_shares"].keys() == {"aux", "main"}


def test_the_keys_that_the_page_names_exist(folder):
    for task in ("module", "table"):
        settings = (ROOT / "conf" / "task" / f"{task}.yaml").read_text()
        known = set(re.findall(r"^(\w+):", settings, re.MULTILINE)) | {"data", "module"}
        section = PAGE.split("## A LightningModule")[task == "module"].split("## After a run")[0]
        named = set(re.findall(r"task\.(\w+)", section)) - {"objective"}
        assert named <= known, task
