"""Self-contained HTML page of a report: no network, no other file."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from lossbalance._utils.palette import INK, PAPER
from lossbalance.sweeps.runs import show
from lossbalance.sweeps.style import MARK

_MOST_ROWS = 1000


@dataclass(frozen=True)
class Picture:
    """A picture of the page: its SVG and its caption."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Section:
    """The part of the page about one task."""

    title: str
    verdict: str
    common: dict[str, Any]
    pictures: Sequence[Picture]
    table: pd.DataFrame
    """A row per setting, the best first; a column of tuples holds the text and the number to sort by."""
    failed: pd.DataFrame
    """The runs that did not complete: ``folder, setting, seed, fold, status, message``."""
    facts: str


def render(title: str, origin: str, sections: Sequence[Section]) -> str:
    """Returns the page: what comes from runs is escaped, and a policy in the page forbids it to load anything."""
    environment = Environment(
        loader=PackageLoader("lossbalance.sweeps", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(code=_code, inline=_inline, show=show)
    template = environment.get_template("report.html")
    return template.render(title=title, origin=origin, sections=sections, most=_MOST_ROWS)


def _code(sentence: str) -> Markup:
    """Sets what stands between backticks as code."""
    return Markup(re.sub("`(.*?)`", r"<code>\1</code>", str(escape(sentence))))


def _inline(svg: str) -> Markup:
    """Makes a picture of our own part of the page, in the reader's own colours."""
    drawing = svg[svg.index("<svg") :]
    for printed, own in ((INK, "currentColor"), (PAPER, "none"), (MARK.lower(), "var(--mark)")):
        drawing = drawing.replace(printed, own)
    return Markup(drawing)
