"""What the README and the pages of the site show, runs; and what they link to, exists."""

import inspect
import re
from pathlib import Path

import matplotlib
import pytest

from lossbalance.cli.runs import record

ROOT = Path(__file__).parents[2]
HOME = re.search(r'Repository = "(.*)"', (ROOT / "pyproject.toml").read_text())[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "llms.txt",
    ROOT / "lossbalance" / "guide.md",
    *sorted((ROOT / "docs").glob("**/*.md")),
]
LINKS = [
    (page, link)
    for page in PAGES
    if "_build" not in page.parts
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
]


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_every_python_example_runs_in_the_order_of_the_page(page, tmp_path, monkeypatch):
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)  # an example draws a picture
    names: dict = {"__name__": "page"}
    for block in blocks(page):
        if "transformers" in block or "accelerate" in block:
            pytest.importorskip("transformers", reason="pip install 'lossbalance[transformers]'")
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize(("page", "link"), LINKS, ids=lambda value: getattr(value, "name", value))
def test_every_link_to_a_file_of_the_project_leads_there(page, link):
    if link.startswith(f"{HOME}/"):  # absolute, so that it works on a package index too
        path = ROOT / re.sub(rf"{re.escape(HOME)}/(raw|blob|tree)/main/", "", link)
    elif link.startswith("http"):
        return
    else:
        path = page.parent / link
    assert path.exists()


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100


@pytest.mark.parametrize("path", re.findall(r"`(tests/[^`]+)`", (ROOT / "docs" / "supported.md").read_text()))
def test_what_is_said_to_be_supported_is_tested_there(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("said", re.findall(r'^\| "([^"]+)"', (ROOT / "docs" / "troubleshooting.md").read_text(), re.M))
def test_what_the_monitor_is_said_to_say_it_says(said):
    sources = ("callbacks/diagnostics.py", "criterion/optimizer_check.py", "criterion/step_warnings.py")
    assert any(said in (ROOT / "lossbalance" / source).read_text() for source in sources)


def test_every_key_of_a_summary_is_on_the_page():
    page = (ROOT / "docs" / "start_command_line.md").read_text()
    told = page.partition("| key of `summary.json`")[2].partition("\n\n")[0]
    keys = re.findall(r'^        "(\w+)": ', inspect.getsource(record.begin), re.M)
    assert len(keys) > 10
    assert {*keys, "seconds", "message"} <= set(re.findall(r"`(\w+)`", told))
