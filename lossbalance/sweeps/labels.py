"""Label placement: texts beside points, where there is room for them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

_SIZE = 9.0  # points
_POSITIONS = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]  # right first, then round
_MOST = 80  # labels, beyond which nobody reads them


class Label(NamedTuple):
    """A text beside a point; the lower the rank, the sooner it gets a place. Rank 0 gets one in any case."""

    x: float
    y: float
    text: str
    rank: int


def place_labels(axes: Axes, labels: Sequence[Label]) -> None:
    """Writes each label beside its point where it covers no other point and no other label; else leaves it out."""
    labels = [label for label in labels if np.isfinite([label.x, label.y]).all()]
    if not labels:
        return
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]  # lays the figure out: pixels are known now
    scale = axes.figure.dpi / 72  # pixels in a point
    spots = axes.transData.transform([(label.x, label.y) for label in labels])
    taken = [Bbox.from_bounds(x - 3 * scale, y - 3 * scale, 6 * scale, 6 * scale) for x, y in spots]
    order = sorted(range(len(labels)), key=lambda i: labels[i].rank)
    for i in order[:_MOST]:
        ways = list(_ways(spots[i], labels[i].text, scale))
        others = taken[:i] + taken[i + 1 :]
        crowds = [_crowd(box, others, axes.bbox) for _, box in ways]
        if min(crowds) == 0 or labels[i].rank == 0:
            (right, up), box = ways[int(np.argmin(crowds))]
            taken.append(box)
            axes.annotate(
                labels[i].text, (labels[i].x, labels[i].y), (7 * right, 7 * up), textcoords="offset points",
                ha=("center", "left", "right")[right], va=("center", "bottom", "top")[up], fontsize=_SIZE,
            )  # fmt: skip


def _ways(spot: np.ndarray, text: str, scale: float) -> Iterator[tuple[tuple[int, int], Bbox]]:
    """Yields the directions in which a label may lie, and its box in pixels."""
    width, height = 0.6 * _SIZE * len(text) * scale, 1.2 * _SIZE * scale
    for right, up in _POSITIONS:
        x, y = spot[0] + 7 * right * scale, spot[1] + 7 * up * scale
        left, bottom = x - width * (0.5, 0, 1)[right], y - height * (0.5, 0, 1)[up]
        yield (right, up), Bbox.from_bounds(left, bottom, width, height)


def _crowd(box: Bbox, taken: Sequence[Bbox], panel: Bbox) -> int:
    """Counts what the box would cover; what lies outside the panel counts more."""
    inside = panel.x0 <= box.x0 and box.x1 <= panel.x1 and panel.y0 <= box.y0 and box.y1 <= panel.y1
    return sum(box.overlaps(other) for other in taken) + (0 if inside else 100)
