"""The command line of the studies."""

import sys
from argparse import ArgumentParser

import pytest

from studies import __main__ as command_line
from studies.__main__ import STUDIES, find_study, main
from studies.common.arguments import add_options, make_settings


@pytest.mark.parametrize("name", STUDIES)
def test_every_setting_of_a_study_is_an_option_with_its_default(name):
    settings = find_study(name).Settings
    parser = ArgumentParser()
    add_options(parser, settings)
    assert make_settings(settings, vars(parser.parse_args([]))) == settings()
    assert "--seeds" in parser.format_help()


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["study.py", *arguments])
    return main()


def test_options_are_settings(monkeypatch, tmp_path):
    reported = []
    monkeypatch.setattr(command_line, "report_study", lambda *arguments: reported.append(arguments))
    options = ["--tables", "iris", "wine", "--steps", "70", "--rates", "0.1", "0.2", "--data", str(tmp_path)]
    assert run(monkeypatch, "one_run", *options, "--folder", str(tmp_path), "--jobs", "1") is None
    ((study, settings, folder, jobs, picture),) = reported
    assert study is find_study("one_run")
    assert (settings.tables, settings.steps, settings.rates) == (("iris", "wine"), 70, (0.1, 0.2))
    assert (settings.data, folder, jobs, picture) == (tmp_path, tmp_path, 1, None)


def test_a_wrong_value_is_one_line(monkeypatch, tmp_path):
    message = run(monkeypatch, "pinn", "--steps", "0", "--folder", str(tmp_path))
    assert message == "error: `steps` must be a whole number, 1 or more, got 0."
