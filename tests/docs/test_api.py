"""The API pages: every public name, once, in the order of a reader."""

import importlib
import re
from pathlib import Path

import pytest

API = Path(__file__).parents[2] / "docs" / "api"


@pytest.mark.parametrize("room", ["weighting", "conflict", "penalties", "callbacks"])
def test_the_page_of_a_room_lists_each_public_name_once(room):
    listed = re.findall(r"^   (\w+)$", (API / f"{room}.md").read_text(), re.M)
    assert sorted(listed) == sorted(importlib.import_module(f"lossbalance.{room}").__all__)
