"""One version everywhere, and a tag that must be it."""

from importlib import metadata

import pytest

from lossbalance import __version__
from scripts.release import main


def test_package_citation_and_changelog_have_one_version():
    assert main("check", f"v{__version__}") == 0
    assert metadata.version("lossbalance") == __version__


def test_another_tag_is_refused_with_what_differs(capsys):
    assert main("check", "v9.9.9") == 1
    assert "`tag` must be v and the version, got 'v9.9.9'" in capsys.readouterr().err


def test_the_notes_of_a_release_are_its_part_of_the_changelog(capsys):
    assert main("notes", f"v{__version__}") == 0
    said = capsys.readouterr().out
    assert "### Added" in said
    assert "## " not in said.replace("### ", "")


@pytest.mark.parametrize("arguments", [("notes", "v9.9.9"), ("publish", "v0.2.0"), ()])
def test_what_cannot_be_released_is_refused(arguments, capsys):
    assert main(*arguments) == 1
    assert capsys.readouterr().err.startswith("error: ")
