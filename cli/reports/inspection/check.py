"""How ``labelstore check`` looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ... import output
from ...text import counted, duration, size
from .findings import print_findings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console, RenderableType

__all__ = ["print_check"]

_WIDE = 78
"""Columns from which on a row of the table of formats fits on a line."""

_TITLES = {
    "stops": "What stops labelstore generate",
    "skipped": "What stops it, or is left out with --on-error skip",
    "note": "Worth knowing",
}


def print_check(report: Mapping[str, Any], flags: Mapping[str, str]) -> None:
    """Print what `labelstore.operations.inspection.check.check` told.

    Args:
        flags: the option that sets each of the library's arguments.
    """
    console = output.console()
    console.print(_summary(report))
    if report["formats"]:
        console.print()
        console.print("What is there", style="bold")
        console.print(_formats(report["formats"], console))
    print_findings(console, report["findings"], flags, _TITLES)
    console.print()
    console.print(_verdict(report))


def _summary(report: Mapping[str, Any]) -> RenderableType:
    seconds = report["seconds"]
    rate = report["count"] / max(seconds, 1e-9)
    took = duration(seconds) if seconds >= 10 else f"{seconds:.1f} s"
    rows = [
        ("photos", f"{report['photos']}: {counted(report['count'], 'photo')}"),
        (
            "read",
            f"{size(report['bytes'])} in {took} ({rate:,.0f} photos/s, "
            f"{counted(report['workers'], 'thread')})",
        ),
    ]
    classes = report["classes"]
    if classes is not None:
        ends = " to ".join(
            f"{counted(classes[end]['count'], 'photo')} ({classes[end]['name']})"
            for end in ("smallest", "largest")
        )
        rows.append(("classes", f"{classes['count']:,}, of {ends}"))
    passed = report["passed_over"]
    if passed["count"]:
        kinds = ", ".join(
            f"{count:,} {suffix or 'without suffix'}"
            for suffix, count in passed["suffixes"].items()
        )
        names = ", ".join(passed["first"])
        more = ", ..." if passed["count"] > len(passed["first"]) else ""
        named = f" ({names}{more})" if names else ""
        rows.append(("passed over", f"{counted(passed['count'], 'file')}: {kinds}{named}"))
    return output.pairs(rows)


def _formats(rows: list[dict[str, Any]], console: Console) -> RenderableType:
    def sides(row: dict[str, Any], name: str) -> str:
        return " x ".join(f"{side:,}" for side in row[name])

    if console.width >= _WIDE:
        lines = [
            (
                f"{row['format']} {row['mode']}",
                f"{row['count']:,}",
                size(row["bytes"]),
                *(sides(row, name) for name in ("smallest", "median", "largest")),
            )
            for row in rows
        ]
        columns = ("format", "photos", "size", "smallest", "median", "largest")
        return output.table(columns, lines, numeric=(1, 2, 3, 4, 5))
    pairs = []
    for row in rows:
        name = f"{row['format']} {row['mode']}"
        pairs.append((name, f"{counted(row['count'], 'photo')}, {size(row['bytes'])}"))
        pairs += [("", f"{name} {sides(row, name)}") for name in ("smallest", "median", "largest")]
    return output.pairs(pairs)


def _verdict(report: Mapping[str, Any]) -> str:
    if report["fit"]:
        return "Nothing here would stop labelstore generate."
    if not report["stops"]:
        return (
            "labelstore generate would stop at the first of these photos; with --on-error skip it "
            "would leave them out."
        )
    return f"labelstore generate would stop: {', '.join(report['stops'] + report['skipped'])}."
