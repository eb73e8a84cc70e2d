"""The rate-distortion benchmark's targets and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.support.measuring import RESULTS
from benchmarks.support.rate_plot import case_name, plot

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
                case_name(row),
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
                case_name(row),
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
        f"## {case_name(table)}: {table['images']} photos x {table['views']} views, temperature "
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


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    if row["setting"] is None:
        return ("none", "", "")
    return (row["setting"], row["bytes_per_crop"], f"{row['kl_nats']:.4f}")


def _yes(value: bool) -> str:
    return "yes" if value else "no"
