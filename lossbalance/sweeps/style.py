"""Style of the plots of a report: legible on a phone, series distinguished by shape as well as colour."""

import io
import re
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossbalance._utils.palette import INK, MUTED, PALETTE, PAPER

MARK = PALETTE[0]
"""The first colour of the data; too dark for a dark page, which has one of its own."""
SERIES_STYLES: list[dict[str, Any]] = [
    {"color": color, "marker": marker} for color, marker in zip(PALETTE, "os^DvP", strict=False)
]
OTHERS: dict[str, Any] = {"color": MUTED, "marker": "."}
RING: dict[str, Any] = {"color": INK, "marker": "o", "markersize": 11, "fillstyle": "none"}
STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "text.parse_math": False,  # names may hold dollars
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "grid.color": MUTED,
    "grid.alpha": 0.3,
    "svg.fonttype": "none",
    "svg.hashsalt": "lossbalance",
}


def make_figure(title: str, height: float = 3.1) -> tuple[Figure, Axes]:
    """Returns a figure of one panel, as wide as a phone shows legibly."""
    figure = Figure(figsize=(4.8, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(shorten(title))
    axes.grid(True)
    axes.set_axisbelow(True)
    return figure, axes


def set_scale(axes: Axes, which: str, values: pd.Series) -> None:
    """Chooses a scale on which the values of an axis, ``x`` or ``y``, can be distinguished, though some are far off."""
    values = values[np.isfinite(values)]
    quarter = np.subtract(*values.quantile([0.75, 0.25])) or values.max() - values.min()
    if len(values) < 4 or values.max() - values.min() < 15 * quarter:
        return
    if values.min() > 0:
        use_logarithm(axes, which)
    else:
        use_logarithm(axes, which, linear_to=max(abs(values.median()), quarter))


def use_logarithm(axes: Axes, which: str, linear_to: float | None = None, **settings: Any) -> None:
    """Makes the scale of one axis logarithmic, beyond ``linear_to`` on both sides if there is such a number."""
    scale = {"value": "log"} if linear_to is None else {"value": "symlog", "linthresh": linear_to}
    getattr(axes, f"set_{which}scale")(**scale, **settings)
    axis = getattr(axes, f"{which}axis")
    axis.set_major_formatter(lambda number, _: f"{number:g}")
    axis.set_minor_formatter(lambda number, _: "")


def add_legend(figure: Figure) -> None:
    """Puts the legend below, and makes room for it."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if not labels:
        return
    columns = 2 if max(map(len, labels)) <= 24 else 1
    figure.set_figheight(figure.get_figheight() + 0.21 * -(-len(labels) // columns))
    figure.legend(handles, labels, loc="outside lower left", ncols=columns)


def shorten(name: str, most: int = 56) -> str:
    """Leaves out the groups of keys, and of a name that is still too long the middle."""
    name = re.sub(r"\S+\.(?=\w+=)", "", "".join(letter if letter.isprintable() else " " for letter in name))
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-most // 2 + 1 :]}"


def svg(figure: Figure, description: str = "") -> str:
    """Returns the picture as SVG, the same for the same picture, with a description for those who cannot see it."""
    buffer = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="svg", facecolor=PAPER, metadata={"Date": None})
    text = buffer.getvalue()
    return text.replace("<defs>", f"<title>{escape(description)}</title>\n <defs>", 1) if description else text


def png(figure: Figure) -> bytes:
    """Returns the picture as PNG on white."""
    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=144, facecolor=PAPER)
    return buffer.getvalue()
