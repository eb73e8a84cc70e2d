"""Figures that commands draw into files, by matplotlib: readable in grey, with units and a title.

What is written in them is made ready by who calls: text without characters of control.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labelstore.storage import local_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

__all__ = ["Region", "draw_confidence", "shortened"]

BARS = "#8a8f98"
"""Colour of bars."""

HATCHES = ("///", "...", "", "\\\\\\")
"""Of regions from left to right: they differ in grey, too."""

CROWDED = 0.05
"""Thresholds that are nearer than this are written one below the other."""


@dataclass(frozen=True)
class Region:
    """What a rule does with confidences above ``low`` up to ``high``, both 0 to 1.

    Args:
        words: for the legend; colour: of the shade, as ``#rrggbb``.
    """

    low: float
    high: float
    words: str
    colour: str


def draw_confidence(
    path: Path,
    edges: npt.NDArray[np.float64],
    shares: npt.NDArray[np.float64],
    *,
    regions: Sequence[Region] = (),
    title: str,
    caption: str,
) -> None:
    """A histogram of the crops' largest probabilities; replaces the file at ``path``.

    Args:
        path: its suffix says the format.
        edges: (n + 1,) rising bounds of the bins, 0 to 1.
        shares: (n,) shares of the crops, 0 to 1.
        regions: adjoining, by rising bounds; the bounds between them are written into the figure.
        title: what it is of; caption: a smaller line below it.

    Raises:
        StoreError: the file cannot be written; an older one is as it was.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(8.5, 5.0), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.bar(
        edges[:-1],
        shares,
        width=edges[1:] - edges[:-1],
        align="edge",
        color=BARS,
        edgecolor="white",
        linewidth=0.8,
        zorder=2,
    )
    axes.set(xlim=(0, 1), ylim=(0, max(*shares, 0.01) * 1.12))
    if regions:
        handles = [_shade(axes, region, place) for place, region in enumerate(regions)]
        _write_bounds(axes, [region.high for region in regions[:-1]])
        figure.legend(
            handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9
        )
    axes.set_xlabel("largest probability of a crop, 0 to 1")
    axes.set_ylabel("share of crops, %")
    # A name with dollar signs is no formula.
    axes.set_title(title, loc="left", pad=22, parse_math=False)
    axes.annotate(
        caption,
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 7),
        textcoords="offset points",
        fontsize=9,
        color="#444444",
        parse_math=False,
    )
    axes.set_xticks([tick / 10 for tick in range(11)])
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:].lower())
    local_files.write_whole(path, picture.getvalue())


def _shade(axes: Any, region: Region, place: int) -> Any:
    """Shade a region; returns the shade, labelled for a legend."""
    from matplotlib.colors import to_rgba

    return axes.axvspan(
        region.low,
        region.high,
        facecolor=to_rgba(region.colour, 0.2),
        edgecolor=to_rgba(region.colour, 0.45),
        hatch=HATCHES[place % len(HATCHES)],
        linewidth=0,
        label=region.words,
        zorder=0,
    )


def _write_bounds(axes: Any, bounds: Sequence[float]) -> None:
    lines = 0
    for place, bound in enumerate(bounds):
        crowded = place > 0 and bound - bounds[place - 1] < CROWDED
        lines = lines + 1 if crowded else 0
        axes.axvline(bound, color="#333333", linewidth=0.9, linestyle="--", zorder=1)
        axes.annotate(
            f"{bound:g}",
            (bound, 0.985),
            xycoords=axes.get_xaxis_transform(),
            xytext=(-3, -14 * lines),
            textcoords="offset points",
            ha="right" if bound >= CROWDED else "left",
            va="top",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1},
            zorder=3,
        )


def shortened(text: str, length: int) -> str:
    """A text of at most ``length`` characters: what is left out of its middle is an ellipsis.

    Names of networks and of files differ at either end.
    """
    if len(text) <= length:
        return text
    end = (length - 1) // 2
    return f"{text[: length - 1 - end]}…{text[len(text) - end :]}"
