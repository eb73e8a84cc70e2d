"""How the benchmarks' pictures look, and labels beside points that do not overlap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

OURS = "#08519c"
"""labelstore."""

OURS_LIGHT = "#6aa5d8"
"""labelstore, what is compared less."""

OTHER = "#8a8f98"
"""Other projects' where they are not told apart by colour."""

PEERS = {
    "FKD": ("s", "#d95f02"),
    "TinyViT": ("^", "#7570b3"),
    "ml-dr": ("D", "#1b9e77"),
    "DistillKit": ("v", "#e7298a"),
    "plain Zarr": ("P", "#666666"),
}
"""Marker and colour of each other project: they differ in grey, too."""

INK, FAINT = "#222222", "#dddddd"
TEXT = 8
"""Points of the smallest text."""

DPI = 150


def figure(width: float, height: float) -> Figure:
    """An empty figure, of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    # It measures words before anything is written.
    FigureCanvasAgg(drawn)
    return drawn


def titles(axes: Axes, title: str, caption: str = "") -> None:
    """What is shown, and below it in smaller letters under which conditions."""
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=20 if caption else 6)
    axes.annotate(
        caption, (0, 1), xycoords="axes fraction", xytext=(0, 6), textcoords="offset points",
        fontsize=TEXT + 0.5, color="#555555",
    )  # fmt: skip


def plain(axes: Axes, grid: str = "both") -> None:
    """Axes without a box, with a faint grid behind all."""
    axes.grid(axis=grid, which="major", color=FAINT, linewidth=0.6)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=TEXT + 1)


def logarithmic(axis: Any, subdivisions: Sequence[float] = (1, 2, 5)) -> None:
    """A logarithmic axis with numbers as people write them, not powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=subdivisions, numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.set_minor_formatter(NullFormatter())


def number(value: float) -> str:
    """``0.02``, ``5``, ``1,700``: to three digits and never with an exponent."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:g}"


@dataclass(frozen=True)
class Label:
    """Words for a point, in the units of the data.

    Args:
        x, y: the point; words: what is written beside it.
    """

    x: float
    y: float
    words: str
    colour: str = INK
    bold: bool = False


def label(axes: Axes, labels: Sequence[Label], points: Sequence[tuple[float, float]]) -> None:
    """Write words beside their points: over no other point and over no other words.

    The axes' limits and the figure's layout must be final. Places are tried round the point, the
    nearest first; words that are farther away get a line to their point.

    Args:
        points: all that are drawn, in the units of the data.
    """
    figure: Any = axes.figure
    figure.draw_without_rendering()
    room = _Room(axes, figure.canvas.get_renderer(), figure.dpi / 72, points)
    written = [_Written(room, entry) for entry in labels]
    # What was written later may have left a better place for what was written first.
    for _ in range(PASSES):
        for words in written:
            words.place([other for other in written if other is not words and other.box])
    for words in written:
        words.draw_leader()


PASSES = 3


class _Room:
    """Where words may be: the frame and the points of axes, in pixels; and pixels in a point."""

    def __init__(
        self, axes: Axes, renderer: Any, pixel: float, points: Sequence[tuple[float, float]]
    ) -> None:
        self.axes, self.renderer, self.pixel = axes, renderer, pixel
        self.frame = axes.get_window_extent(renderer)
        self.points = [tuple(axes.transData.transform(point)) for point in points]


class _Written:
    """Words that are placed beside their point."""

    def __init__(self, room: _Room, entry: Label) -> None:
        self.room, self.entry = room, entry
        self.own = tuple(room.axes.transData.transform((entry.x, entry.y)))
        self.radius, self.offset = 0.0, (0.0, 0.0)
        self.box: Bbox | None = None
        self.text = room.axes.annotate(
            entry.words, (entry.x, entry.y), xytext=(0, 0), textcoords="offset points",
            fontsize=TEXT, color=entry.colour, fontweight="bold" if entry.bold else "normal",
            zorder=6, annotation_clip=False,
        )  # fmt: skip

    def place(self, others: Sequence[_Written]) -> None:
        """Go where they hide least, the nearer the better."""
        taken = [other.box for other in others if other.box is not None]
        shown = [*self.room.points, *(place for other in others for place in other.leader())]
        best = math.inf
        for self.radius, self.offset in _offsets():
            _put(self.text, self.offset)
            self.box = self._extent()
            hidden = _hidden(self.box, shown, taken, self.room.frame, self.room.pixel)
            hidden += _crossed(self.leader(), self.own, shown, taken, self.room.pixel)
            if hidden + self.radius / 10 < best:
                best, chosen = hidden + self.radius / 10, (self.radius, self.offset)
            if not hidden:
                break
        self.radius, self.offset = chosen
        _put(self.text, self.offset)
        self.box = self._extent()

    def _extent(self) -> Bbox:
        return self.text.get_window_extent(self.room.renderer).padded(1.5 * self.room.pixel)

    def leader(self) -> list[tuple[float, float]]:
        """Places on the line from the point to the words, in pixels; none where they are near."""
        if self.radius <= LEADER:
            return []
        return _leader(self.own, self.offset, self.room.pixel)

    def draw_leader(self) -> None:
        """The line, where one is needed."""
        if self.radius > LEADER:
            self.room.axes.annotate(
                "", (self.entry.x, self.entry.y), xytext=self.offset, textcoords="offset points",
                zorder=2, annotation_clip=False,
                arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkB": 3},
            )  # fmt: skip


LEADER = 12
"""Points of print: words that are farther from their point get a line to it."""


def _offsets() -> Iterator[tuple[float, tuple[float, float]]]:
    """Distances from a point, and offsets, in points of print; the right side first."""
    for radius in (7, 9, 12, 17, 24, 33, 44, 58):
        for step in (0, 1, -1, 2, -2, 7, -7, 8, 3, -3, 6, -6, 4, -4, 5, -5):
            angle = step * math.pi / 8
            yield radius, (radius * math.cos(angle), radius * math.sin(angle))


def _put(text: Any, offset: tuple[float, float]) -> None:
    x, y = offset
    text.set_position(offset)
    text.set_ha("left" if x > 1 else "right" if x < -1 else "center")
    level = abs(y) < 0.5 * abs(x)
    text.set_va("center" if level else "bottom" if y > 0 else "top")


def _hidden(box: Bbox, shown: Any, taken: Sequence[Bbox], frame: Bbox, pixel: float) -> float:
    """How much words at a place hide."""
    marker = 3.5 * pixel
    points = sum(
        box.x0 - marker < x < box.x1 + marker and box.y0 - marker < y < box.y1 + marker
        for x, y in shown
    )
    words = sum(box.overlaps(other) for other in taken)
    outside = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1
    return 20 * points + 1000 * words + 1000 * outside


def _leader(own: Any, offset: tuple[float, float], pixel: float) -> list[tuple[float, float]]:
    """Places on the line from a point to its words."""
    # Two points of print apart, beyond the marker and up to the words.
    length = math.hypot(*offset)
    shares = [step / length for step in range(5, int(length) - 1, 2)]
    return [
        (own[0] + share * offset[0] * pixel, own[1] + share * offset[1] * pixel) for share in shares
    ]


def _crossed(
    leader: Sequence[tuple[float, float]], own: Any, shown: Any, taken: Sequence[Bbox], pixel: float
) -> float:
    """How much a line to words goes through."""
    near = 3 * pixel
    points = sum(
        any(math.dist(place, other) < near for place in leader)
        for other in shown
        if math.dist(own, other) > near
    )
    words = sum(any(box.contains(*place) for place in leader) for box in taken)
    return 10.0 * points + 500.0 * words


def save(drawn: Figure, path: Path) -> None:
    """Write it as PNG."""
    drawn.savefig(path)
