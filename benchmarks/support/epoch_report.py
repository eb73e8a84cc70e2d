"""The epoch benchmark's plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.support import plot_style

if TYPE_CHECKING:
    from pathlib import Path


def plot(result: dict[str, Any], path: Path) -> None:
    """Seconds of an epoch of one view, one bar a way of reading."""
    from matplotlib.patches import Patch

    peers = {name: row["1_views"] for name, row in result["peers"].items() if "1_views" in row}
    seconds = {name: row["seconds"] for name, row in peers.items()}
    scaled = {name for name, row in peers.items() if "scaled" in row["how"]}
    seconds["labelstore, slab ready"] = result["epochs"]["1 view"]["slab_ready_s"]["warm"]
    seconds["labelstore, every label decoded"] = result["epochs"]["1 view"]["whole_s"]
    names = sorted(seconds, key=lambda name: seconds[name])
    ours = [name.startswith("labelstore") for name in names]
    figure = plot_style.figure(8.5, 0.36 * len(names) + 1.7)
    axes = figure.subplots()
    bars = axes.barh(
        names,
        [seconds[name] for name in names],
        color=[plot_style.OURS if mine else plot_style.OTHER for mine in ours],
        hatch=["//" if mine else "" for mine in ours],
        edgecolor="white",
    )
    axes.bar_label(
        bars,
        [f"{plot_style.number(seconds[name])} s" + " *" * (name in scaled) for name in names],
        padding=4,
        fontsize=plot_style.TEXT + 1,
    )
    plot_style.logarithmic(axes.xaxis, subdivisions=(1,))
    # The longest bar's number stands inside the axes.
    axes.set_xlim(min(seconds.values()) / 3, max(seconds.values()) * 5)
    axes.invert_yaxis()
    plot_style.plain(axes, grid="x")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("seconds (logarithmic)")
    setting = result["setting"]
    plot_style.titles(
        axes,
        f"Reading the labels of one epoch: {setting['images']:,} images, one view each",
        f"Top {setting['k']}, files in the page cache; labelstore verifies what it reads. "
        "* measured on fewer images, scaled",
    )
    shades = [
        Patch(facecolor=plot_style.OURS, edgecolor="white", hatch="//", label="labelstore"),
        Patch(facecolor=plot_style.OTHER, label="others"),
    ]
    axes.legend(handles=shades, loc="upper right", frameon=False, fontsize=plot_style.TEXT + 1)
    plot_style.save(figure, path)
