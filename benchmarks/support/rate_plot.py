"""The rate-distortion benchmark's plot: bytes a crop against the distance to the teacher."""

from __future__ import annotations

import itertools
import re
import statistics
from typing import TYPE_CHECKING, Any

from benchmarks.support import plot_style

if TYPE_CHECKING:
    from pathlib import Path


def case_name(row: dict[str, Any]) -> str:
    """The teacher and the photos of a table, or of a row about it."""
    return f"{row['teacher'].removeprefix('tf_efficientnet_').capitalize()}, {row['photos']}"


def plot(tables: list[dict[str, Any]], out: Path) -> None:
    """Bytes a crop against KL, both logarithmic: a panel for each temperature of the first case."""
    first = [
        table
        for table in tables
        if all(table[key] == tables[0][key] for key in ("teacher", "photos", "views"))
    ]
    figure = plot_style.figure(9, 5.2 * len(first))
    panels = figure.subplots(len(first), 1, squeeze=False)[:, 0]
    points = [_panel(axes, table) for axes, table in zip(panels, first, strict=True)]
    # Where words go depends on where everything else is.
    figure.draw_without_rendering()
    for axes, table, drawn in zip(panels, first, points, strict=True):
        plot_style.label(axes, _labels(table), drawn)
    plot_style.save(figure, out)


def _panel(axes: Any, table: dict[str, Any]) -> list[tuple[float, float]]:
    """Draw everything but the words; returns the points."""
    rows, peers = table["labelstore"], table["peers"]
    ours = [(row["bytes_per_crop"], row["kl_nats"]) for row in rows]
    parquet = [(row["parquet"]["bytes_per_crop"], row["kl_nats"]) for row in rows]
    front = _front(rows, "bytes_per_crop")
    hollow = {"markerfacecolor": "none", "markeredgecolor": plot_style.OURS_LIGHT}
    axes.plot(
        *zip(*parquet, strict=True), "o", markersize=4, label="labelstore in Parquet", **hollow
    )
    axes.plot(*zip(*front, strict=True), "-", color=plot_style.OURS, linewidth=1)
    axes.plot(
        *zip(*ours, strict=True), "o", color=plot_style.OURS, markersize=5, label="labelstore"
    )
    for name, (marker, colour) in plot_style.PEERS.items():
        drawn = [(row["bytes_per_crop"], row["kl_nats"]) for row in peers if _is_of(row, name)]
        if drawn:
            style = {
                "color": colour,
                "markersize": 7,
                "markeredgecolor": "white",
                "markeredgewidth": 0.5,
                "label": name,
            }
            axes.plot(*zip(*drawn, strict=True), marker, zorder=4, **style)
    _draw_levels(axes, peers)
    axes.margins(x=0.1, y=0.14)
    plot_style.logarithmic(axes.xaxis)
    plot_style.logarithmic(axes.yaxis)
    plot_style.plain(axes)
    axes.set_xlabel("bytes a crop on disk (logarithmic)")
    axes.set_ylabel("KL(teacher || recovered), nats (logarithmic)")
    axes.legend(loc="lower left", fontsize=plot_style.TEXT, frameon=True, edgecolor="none")
    plot_style.titles(
        axes,
        f"Temperature {table['temperature']:g}: to the left is smaller, below is nearer to the "
        "teacher",
        f"{case_name(table)}: {table['images']} photos x {table['views']} views, 1,000 classes",
    )
    others = [(row["bytes_per_crop"], row["kl_nats"]) for row in peers]
    return [*ours, *parquet, *others, *_along(front)]


def _along(front: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points of the line, near each other: no words are written over it."""
    places = []
    for (x0, y0), (x1, y1) in itertools.pairwise(front):
        for step in range(1, 20):
            share = step / 20
            places.append((x0 * (x1 / x0) ** share, y0 * (y1 / y0) ** share))
    return places


TOP = re.compile(r" top-(\d+)")
"""How many classes a peer stores."""


def _levels(peers: list[dict[str, Any]]) -> dict[str, float]:
    """KL by number of stored classes, where several peers store as many: it is the same of all."""
    rows: dict[str, list[float]] = {}
    for row in peers:
        if (top := TOP.search(row["peer"])) is not None:
            rows.setdefault(top[1], []).append(row["kl_nats"])
    return {k: statistics.median(values) for k, values in rows.items() if len(values) > 1}


def _draw_levels(axes: Any, peers: list[dict[str, Any]]) -> None:
    for k, level in _levels(peers).items():
        axes.axhline(level, color="#aaaaaa", linewidth=0.7, linestyle=":", zorder=1)
        axes.annotate(
            f"others, top {k}",
            (1, level),
            xycoords=axes.get_yaxis_transform(),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            fontsize=plot_style.TEXT,
            color="#666666",
        )


def _is_of(row: dict[str, Any], peer: str) -> bool:
    return str(row["peer"]).startswith(peer)


NAMED = {
    "small": "small",
    "balanced": "balanced",
    "fast": "fast",
    "k=10, ratio32": "k=10",
    "k=30, ratio32, top-p 0.999": "k=30",
    "k=100, u8": "k=100",
}
"""Starts of the settings that are named in the picture, and how."""


def _labels(table: dict[str, Any]) -> list[plot_style.Label]:
    """Words at the points: those of other projects first, as they are the most crowded."""
    labels = []
    levels = _levels(table["peers"])
    for row in sorted(table["peers"], key=lambda row: (-row["kl_nats"], row["bytes_per_crop"])):
        peer = next(name for name in plot_style.PEERS if _is_of(row, name))
        top = TOP.search(row["peer"])
        words = row["peer"].replace("tar.gz", "tar")
        # The line through the peers says it of them.
        words = TOP.sub("" if top and top[1] in levels else r", top \1", words)
        colour = plot_style.PEERS[peer][1]
        labels.append(plot_style.Label(row["bytes_per_crop"], row["kl_nats"], words, colour))
    named = set()
    for row in table["labelstore"]:
        setting = row["setting"]
        start = next((start for start in NAMED if setting.split(":")[0] == start), None)
        start = start or (setting if setting in NAMED else None)
        if start is not None and start not in named:
            named.add(start)
            k = setting.partition(": ")[2].split(",")[0]
            words = NAMED[start] + (f" ({k})" if k else "")
            place = (row["bytes_per_crop"], row["kl_nats"])
            labels.append(plot_style.Label(*place, words, plot_style.OURS, bold=True))
    return labels


def _front(rows: list[dict[str, Any]], size: str) -> list[tuple[float, float]]:
    """The points that no other beats in both, in order of bytes."""
    best: list[tuple[float, float]] = []
    for row in sorted(rows, key=lambda row: (row[size], row["kl_nats"])):
        if not best or row["kl_nats"] < best[-1][1]:
            best.append((row[size], row["kl_nats"]))
    return best
