"""How classes look, and what is taken for what: parts of ``labelstore inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ... import output
from ...text import counted, share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

__all__ = ["SORTS", "by_class", "class_name", "confused", "suspects", "suspects_title"]

SORTS = {
    "confidence": ("confidence", False),
    "agreement": ("agreement", False),
    "drift": ("drift", True),
    "images": ("images", True),
    "class": ("class", False),
}
"""What ``--sort`` may say -> the entry of a class's row, and whether the largest come first."""


def class_name(number: int, names: Sequence[str] | None) -> str:
    """``954 banana``; the number alone where names are unknown."""
    return str(number) if names is None else f"{number} {names[number]}"


def by_class(report: dict[str, Any], sort: str, rows: int) -> RenderableType:
    """A row for each class that has images.

    Args:
        report: of ``labelstore.operations.inspection.inspect.report``.
        sort: one of ``SORTS``.
        rows: how many are shown, all for 0.
    """
    name, largest_first = SORTS[sort]
    classes = [row for row in report["classes"] if row["images"]]
    classes.sort(key=lambda row: row[name], reverse=largest_first)
    shown = classes[: rows or None]
    lines = [
        (
            class_name(row["class"], report["class_names"]),
            f"{row['images']:,}",
            f"{row['confidence']:.3f}",
            share(row["agreement"], 1),
            f"{row['drift']:.3f}",
            f"{row['entropy']:.2f}",
            *(share(row[action], 1) for action in ("discarded", "calibrated", "kept")),
            f"{row['predicted']:,}",
        )
        for row in shown
    ]
    headings = (
        *("class", "images", "confidence", "top-1", "drift", "entropy"),
        *("discarded", "calibrated", "kept", "predicted"),
    )
    return output.table(headings, lines, numeric=tuple(range(1, len(headings))))


def confused(report: dict[str, Any], rows: int) -> RenderableType:
    """The pairs of classes of which one takes most of the other's mass."""
    names = report["class_names"]
    lines = [
        (
            class_name(pair["target"], names),
            class_name(pair["predicted"], names),
            share(pair["share"], 1),
            pair["images"][0]["key"],
        )
        for pair in report["confusion"][:rows]
    ]
    return output.table(("class", "taken for", "mass", "most of all in"), lines, numeric=(2,))


def suspects(report: dict[str, Any], rows: int) -> RenderableType:
    """Images whose ground truth may be wrong, the worst first."""
    names = report["class_names"]
    lines = [
        (
            entry["key"],
            class_name(entry["target"], names),
            f"{entry['target_probability']:.3f}",
            class_name(entry["suggested"], names),
            f"{entry['suggested_probability']:.3f}",
            share(entry["views"], 0),
        )
        for entry in report["wrong_targets"]["entries"][:rows]
        if entry["margin"] < 0
    ]
    headings = ("image", "ground truth", "has", "views agree on", "has", "views")
    return output.table(headings, lines, numeric=(2, 4, 5))


def suspects_title(judged: dict[str, Any]) -> str:
    """How many there are, as a heading."""
    return (
        "Ground truth that may be wrong: views agree on another class "
        f"({counted(judged['candidates'], 'candidate')} of {counted(judged['images'], 'image')})"
    )
