import os

import pytest

from lossbalance.cli.completion import answer, is_query

COMMANDS = ["train", "eval", "predict"]


@pytest.mark.parametrize(
    ("line", "printed"),
    [("lossbalance ", "train eval predict"), ("lossbalance tr", "train"), ("lossbalance eval ckpt", "")],
)
def test_a_subcommand_is_completed_here(line, printed, monkeypatch, capsys):
    monkeypatch.setenv("COMP_LINE", line)
    assert answer(COMMANDS)
    assert capsys.readouterr().out.strip() == printed


@pytest.mark.parametrize(
    ("line", "left"),
    [("lossbalance train loss=gr", "lossbalance loss=gr"), ("lossbalance loss=gr", "lossbalance loss=gr")],
)
def test_overrides_are_completed_by_hydra_which_sees_no_subcommand(line, left, monkeypatch):
    monkeypatch.setenv("COMP_LINE", line)
    assert not answer(COMMANDS)
    assert os.environ["COMP_LINE"] == left


def test_only_a_query_is_one():
    assert is_query(["-sc", "query=bash"])
    assert is_query(["--shell-completion", "query=fish"])
    assert not is_query(["-sc", "install=bash"])
    assert not is_query(["train", "query=bash"])
