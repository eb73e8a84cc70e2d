"""The rate-distortion benchmark's targets, tables and plot."""

from __future__ import annotations

import itertools
import re
import statistics
from typing import TYPE_CHECKING, Any

from benchmarks.support import plot_style
from benchmarks.support.measuring import RESULTS

if TYPE_CHECKING:
    from pathlib import Path

RESULT = RESULTS / "rate_distortion.json"

TARGETS = (
    (1.0, 500, "FKD top-5 fp32", 1.5),
    (1.0, 500, "FKD top-10 fp32", 4.0),
    (1.0, 128, "FKD top-5 fp32", 2.5),
    (1.0, 128, "FKD top-10 fp32", 5.0),
    (0.5, 500, "FKD top-5 fp32", 3.0),
    (0.5, 500, "FKD top-10 fp32", 10.0),
)
"""Temperature, views, whose KL must be reached, with how many bytes a crop at the most."""

TENTH = 0.1
"""The share of a peer's bytes that labelstore may take at no worse KL."""


def cheapest(table: dict[str, Any], kl_nats: float) -> dict[str, Any] | None:
    """labelstore's setting (in Zarr) of fewest bytes whose KL is no worse; None if none is."""
    good = [row for row in table["labelstore"] if row["kl_nats"] <= kl_nats]
    return min(good, key=lambda row: row["bytes_per_crop"], default=None)


def targets(tables: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each target, on every table of its temperature and views."""
    rows = []
    for temperature, views, peer, limit in TARGETS:
        for table in tables:
            if (table["temperature"], table["views"]) != (temperature, views):
                continue
            reference = next(row for row in table["peers"] if row["peer"] == peer)
            found = cheapest(table, reference["kl_nats"])
            rows.append(
                {
                    **_where(table),
                    "peer": peer,
                    "peer_kl_nats": reference["kl_nats"],
                    "limit_bytes": limit,
                    **_found(found),
                    "met": found is not None and found["bytes_per_crop"] <= limit,
                }
            )
    return rows


def against_peers(tables: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each peer's point and the cheapest setting that is no farther from the teacher."""
    rows = []
    for table in tables:
        for peer in table["peers"]:
            found = cheapest(table, peer["kl_nats"])
            share = None if found is None else found["bytes_per_crop"] / peer["bytes_per_crop"]
            rows.append(
                {
                    **_where(table),
                    "peer": peer["peer"],
                    "peer_bytes": peer["bytes_per_crop"],
                    "peer_kl_nats": peer["kl_nats"],
                    **_found(found),
                    "share": None if share is None else round(share, 4),
                    "met": share is not None and share <= TENTH,
                }
            )
    return rows


def _where(table: dict[str, Any]) -> dict[str, Any]:
    return {key: table[key] for key in ("teacher", "photos", "views", "temperature")}


def _found(row: dict[str, Any] | None) -> dict[str, Any]:
    if row is None:
        return {"setting": None, "bytes_per_crop": None, "kl_nats": None}
    return {key: row[key] for key in ("setting", "bytes_per_crop", "kl_nats")}


def write(result: dict[str, Any], out: Path) -> None:
    """The Markdown tables and the plot, beside the JSON."""
    out.with_suffix(".md").write_text(markdown(result))
    plot(result["tables"], out.with_suffix(".png"))
    print(f"written to {out.with_suffix('.md')} and {out.with_suffix('.png')}")


def markdown(result: dict[str, Any]) -> str:
    """Everything that was measured, as tables."""
    fixed = [row["fixed_bytes"] for table in result["tables"] for row in table["labelstore"]]
    lines = [
        "# Bytes a crop against distance to the teacher",
        "",
        "`python -m benchmarks.rate_distortion`. KL(teacher || recovered), in nats, is the mean "
        "over views. Bytes are those on disk of labels, prior lists, commits and the image table; "
        "a Zarr store's manifest and array descriptions come on top, "
        f"{min(fixed):,} to {max(fixed):,} bytes whatever its size. A chunk holds as many crops as "
        "in a large data set, of fewer images.",
        "",
    ]
    for table in result["tables"]:
        lines += _table(table)
    lines += ["## Targets", ""]
    lines += _grid(
        (
            "teacher, photos",
            "views",
            "T",
            "KL of",
            "KL",
            "at most",
            "setting",
            "bytes",
            "KL",
            "met",
        ),
        [
            (
                _place(row),
                row["views"],
                row["temperature"],
                row["peer"],
                f"{row['peer_kl_nats']:.4f}",
                row["limit_bytes"],
                *_cells(row),
                _yes(row["met"]),
            )
            for row in result["targets"]
        ],
    )
    lines += ["## A tenth of each peer's bytes, at no worse KL", ""]
    lines += _grid(
        ("teacher, photos", "views", "T", "peer", "bytes", "KL", "setting", "bytes", "KL", "share"),
        [
            (
                _place(row),
                row["views"],
                row["temperature"],
                row["peer"],
                row["peer_bytes"],
                f"{row['peer_kl_nats']:.4f}",
                *_cells(row),
                "none" if row["share"] is None else f"{row['share']:.1%}",
            )
            for row in result["against_peers"]
        ],
    )
    return "\n".join([*lines, *_coding(result["coding"]), *_rest(result)]) + "\n"


def _table(table: dict[str, Any]) -> list[str]:
    rows = [
        (
            row["setting"],
            row["bytes_per_crop"],
            row["parquet"]["bytes_per_crop"],
            f"{row['kl_nats']:.4f}",
            f"{row['total_variation']:.4f}",
            f"{row['top1_kept']:.4f}",
            row["classes_per_crop"],
        )
        for row in sorted(table["labelstore"], key=lambda row: row["bytes_per_crop"])
    ]
    rows += [
        (
            row["peer"],
            row["bytes_per_crop"],
            "",
            f"{row['kl_nats']:.4f}",
            f"{row['total_variation']:.4f}",
            f"{row['top1_kept']:.4f}",
            "",
        )
        for row in table["peers"]
    ]
    return [
        f"## {_place(table)}: {table['images']} photos x {table['views']} views, temperature "
        f"{table['temperature']:g}",
        "",
        *_grid(
            (
                "labels",
                "bytes a crop",
                "in Parquet",
                "KL, nats",
                "total variation",
                "top-1 kept",
                "classes a crop",
            ),
            rows,
        ),
    ]


def _coding(coded: list[dict[str, Any]]) -> list[str]:
    """The entropy estimates."""
    lines = [
        "## What the codes need: bytes a crop",
        "",
        "The entropy of each array by itself lies between `in sample` (nothing is paid for "
        "learning the distributions: too low) and `adaptive` (the length of a code that could be "
        "decoded: too high). `4 in a row` is what chunks take with 4 views of an image in a row, "
        "as a large store has them.",
        "",
    ]
    rows = []
    for entry in coded:
        for name, array in entry["arrays"].items():
            best = min(array["compressors"], key=lambda one: array["compressors"][one])
            rows.append(
                (
                    entry["setting"],
                    entry["temperature"],
                    name,
                    array["disk"],
                    array["interleaved"],
                    array["adaptive"],
                    array["plug_in"],
                    f"{array['compressors'][best]} ({best})",
                )
            )
        total = entry["total"]
        rows.append(
            (
                entry["setting"],
                entry["temperature"],
                "all",
                total["disk"],
                total["interleaved"],
                total["adaptive"],
                total["plug_in"],
                "",
            )
        )
    head = (
        "setting",
        "T",
        "array",
        "on disk",
        "4 in a row",
        "adaptive",
        "in sample",
        "smallest compressor",
    )
    return lines + _grid(head, rows)


def _rest(result: dict[str, Any]) -> list[str]:
    views = result["confidence"][0]["views"]
    confident = [
        (row["quantizer"], f"{row['largest_error']:.2g}", f"{row['same_action']:.4%}")
        for row in result["confidence"]
    ]
    names = {
        "decode": "codes in memory, decoded",
        "read_warm": "read, chunks cached",
        "read_zarr": "read, Zarr",
        "read_parquet": "read, Parquet",
    }
    fast = [
        (
            row["setting"],
            *(
                f"{row[name]['million_pairs_per_second']} / {row[name]['million_views_per_second']}"
                for name in names
            ),
        )
        for row in result["speed"]
    ]
    return [
        f"## The largest probability, over {views:,} views",
        "",
        *_grid(("quantizer", "largest error", "same FerKD action"), confident),
        "## Millions a second on one core: (class, probability) pairs / views",
        "",
        *_grid(("setting", *names.values()), fast),
    ]


def _grid(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    """A Markdown table and an empty line."""
    body = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *body, ""]


def _place(row: dict[str, Any]) -> str:
    return f"{row['teacher'].removeprefix('tf_efficientnet_').capitalize()}, {row['photos']}"


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    if row["setting"] is None:
        return ("none", "", "")
    return (row["setting"], row["bytes_per_crop"], f"{row['kl_nats']:.4f}")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


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
        f"{_place(table)}: {table['images']} photos x {table['views']} views, 1,000 classes",
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
