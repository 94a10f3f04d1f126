"""Picture of the study of auxiliary losses."""

import pandas as pd
from matplotlib.figure import Figure

from lossbalance._utils.palette import INK, PALETTE
from studies.auxiliary.cases import KINDS
from studies.auxiliary.summary import compare

_LIMIT = 15.0  # per cent, beyond which a point is drawn at the edge


def draw(results: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draws the change of the main term's test loss by method, a panel for each kind of auxiliary terms.

    Args:
        results: The rows of all cells.
        summary: What :func:`studies.auxiliary.summarize` returned.
    """
    changes = compare(results)[list(summary.index)]
    figure = Figure(figsize=(11.0, 5.2), dpi=90, layout="constrained")
    panels = figure.subplots(1, len(KINDS), sharey=True, sharex=True)
    for axes, kind, colour in zip(panels, KINDS, PALETTE, strict=False):
        part = changes.xs(kind, level="kind")
        for place, method in enumerate(summary.index):
            axes.plot(part[method].clip(-_LIMIT, _LIMIT), [place] * len(part), ".", color=colour, alpha=0.35)
        means = summary[kind]
        axes.plot(means.clip(-_LIMIT, _LIMIT), range(len(means)), "D", color=colour, markersize=6)
        for place, mean in enumerate(means):
            axes.annotate(
                f"{mean:+.1f}", (1.0, place), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8
            )
        axes.set_xlim(-1.1 * _LIMIT, 1.7 * _LIMIT)  # room for the numbers
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_title(f"{kind} auxiliary terms", fontsize=11)
        axes.set_xlabel("test loss of the main term\nagainst main alone, %")
        axes.grid(alpha=0.3)
    panels[0].set_yticks(range(len(summary)), list(summary.index))
    panels[0].invert_yaxis()
    return figure
