"""Opens the report in a real browser, where one is installed, at the width of a phone and of a desktop."""

import json
import re
import shutil
import subprocess

import pytest

from lossbalance.sweeps.report import write_report
from tests.sweeps.synthetic import write_alpha_sweep, write_run

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
PROBE = """
<script>
const table = document.querySelector("table"), headings = [...table.tHead.rows[0].cells];
const column = i => [...table.tBodies[0].rows].map(row => row.cells[i].textContent.trim());
const click = i => { headings[i].querySelector("button").click(); return column(i); };
const seen = {
  width: innerWidth, content: document.documentElement.scrollWidth, headings: headings.map(cell => cell.textContent),
  pictures: [...document.querySelectorAll("figure svg")].map(svg => svg.getBoundingClientRect().width),
  paper: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color,
  text: Math.min(...[...document.querySelectorAll("svg text")].map(text => text.getBoundingClientRect().height)),
  up: click(0), down: click(0), metric: click(1), sorted: headings[1].getAttribute("aria-sort"),
};
document.body.innerHTML = "<pre></pre>";
document.querySelector("pre").textContent = JSON.stringify(seen);
</script>
"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser: install one of {', '.join(BROWSERS)}")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_alpha_sweep(
        folder, {alpha: [0.9 - (alpha - 0.3) ** 2, 0.91 - (alpha - 0.3) ** 2] for alpha in (0, 0.3, 0.5, 1)}
    )
    name = "a long name of a choice that somebody made " * 3
    write_run(folder / "90", 0.2, choices={"alpha": 1, "note": name}, status="failed", message="<b>boom</b> " * 20)
    write_report([folder])
    text = (folder / "report.html").read_text()
    (folder / "probed.html").write_text(text.replace("</body>", f"{PROBE}</body>"))
    return folder / "probed.html"


@pytest.fixture(scope="module", params=[(390, 0), (1280, 1)], ids=["phone, dark", "desktop, light"])
def seen(page, request, tmp_path_factory):
    """What the probe saw at the given width, in the given colours, and what the browser logged."""
    width, scheme = request.param
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--window-size={width},900",
        f"--blink-settings=preferredColorScheme={scheme}", f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
        "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    dumped = re.search(r"<pre>(.*)</pre>", done.stdout, re.DOTALL)
    assert dumped, done.stderr
    return json.loads(dumped[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")) | {
        "log": [line for line in done.stderr.splitlines() if "CONSOLE" in line],
        "asked": width,
        "dark": scheme == 0,
    }


def test_the_console_stays_empty(seen):
    assert seen["log"] == []


def test_the_page_fits_the_width(seen):
    assert seen["content"] <= seen["width"] == seen["asked"]
    assert all(300 < width <= seen["width"] for width in seen["pictures"])


def test_the_text_of_pictures_is_legible(seen):
    assert seen["text"] >= 9


def test_a_click_on_a_heading_sorts_by_it_and_a_second_one_turns_it_round(seen):
    numbers = ["alpha=0", "alpha=0.3", "alpha=0.5", "alpha=1"]
    assert [name for name in seen["up"] if "note" not in name] == numbers
    assert seen["down"] == seen["up"][::-1]
    assert seen["sorted"] == "ascending"
    assert seen["metric"][0].startswith("0.4")
    assert seen["metric"][-1] == ""  # a setting without a value is last


def test_the_page_follows_the_colours_of_the_reader(seen):
    paper, ink = (int(re.search(r"\d+", seen[name])[0]) for name in ("paper", "ink"))
    assert (paper < ink) == seen["dark"]
