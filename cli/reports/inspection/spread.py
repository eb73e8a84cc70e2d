"""How labels spread, in bars: thresholds, calibration, entropy, residual mass, drift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ... import choices, output
from ...text import share
from ..actions import ACTIONS
from .bars import sparkline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

__all__ = [
    "curve",
    "drift",
    "drifting",
    "entropy",
    "fitted",
    "reliability",
    "reliability_title",
    "residual",
]

SHOWN_THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Thresholds at which the curve of shares is told."""


def curve(report: dict[str, Any]) -> RenderableType:
    """What part of the crops is at or below thresholds, and above them."""
    at_most = dict(
        zip(report["thresholds"]["confidence"], report["thresholds"]["at_most"], strict=True)
    )
    crops = at_most[1.0]
    rows = [
        (f"{edge:g}", share(at_most[edge] / crops), share(1 - at_most[edge] / crops))
        for edge in SHOWN_THRESHOLDS
    ]
    return output.table(("threshold", "at or below", "above"), rows, numeric=(0, 1, 2))


def fitted(report: dict[str, Any]) -> RenderableType:
    """The paper's thresholds beside those that fit, and what part of the crops each takes."""
    at_most = dict(
        zip(report["thresholds"]["confidence"], report["thresholds"]["at_most"], strict=True)
    )
    low, middle, top = (at_most[edge] for edge in (choices.LOW, choices.MIDDLE, choices.TOP))
    crops, fit = at_most[1.0], report["fitted"]
    paper = {
        "discarded_low": low,
        "calibrated": middle - low,
        "kept": top - middle,
        "discarded_high": crops - top,
    }
    rows = [
        (name, f"{default}", f"{fit[name]}")
        for name, default in (
            *(("low", choices.LOW), ("middle", choices.MIDDLE)),
            ("top", choices.TOP),
        )
    ]
    rows += [
        (ACTIONS[name][0], share(count / crops), share(fit["shares"][name]))
        for name, count in paper.items()
    ]
    return output.table(("", "paper", "fit"), rows, numeric=(1, 2))


def reliability(calibration: dict[str, Any]) -> RenderableType:
    """Confidence against accuracy, in the bins that have crops."""
    rows = [
        (
            f"{row['low']:.2f} to {row['high']:.2f}",
            f"{row['count']:,}",
            f"{row['confidence']:.3f}",
            f"{row['accuracy']:.3f}",
            f"{row['accuracy'] - row['confidence']:+.3f}",
        )
        for row in calibration["bins"]
        if row["count"]
    ]
    headings = ("confidence", "crops", "says", "is right", "difference")
    return output.table(headings, rows, numeric=(1, 2, 3, 4))


def reliability_title(calibration: dict[str, Any]) -> str:
    """The expected calibration error, as a heading."""
    error = calibration["expected_calibration_error"]
    return f"Calibration of the teacher on crops: expected calibration error {share(error)}"


def drifting(images: dict[str, Any]) -> RenderableType:
    """The images with the largest and the smallest drift."""
    tables = []
    for kind in ("largest", "smallest"):
        rows = [(f"{entry['drift']:.4f}", entry["key"]) for entry in images[kind]]
        tables.append(output.table((f"{kind} drift", "image"), rows, numeric=(0,), named_by=(1,)))
    return output.beside(*tables)


def residual(rows: Sequence[dict[str, Any]]) -> RenderableType:
    """Mean mass outside the largest classes, by how many are kept; few of many ranks."""
    kept = [row for row in rows if row["rank"] <= 5 or row["rank"] in (10, 20, 50, len(rows))]
    lines = [(f"{row['rank']:,}", share(row["mean"])) for row in kept]
    return output.table(("classes kept", "mass left out"), lines, numeric=(0, 1))


def entropy(statistics: dict[str, Any], encoding: str) -> str:
    """Mean and histogram in a line."""
    top = statistics["histogram"][-1]["high"]
    return (
        f"mean {statistics['mean']:.3f} nats{_error(statistics['error'])}; "
        f"0 {_bars(statistics['histogram'], encoding)} {top:.2f} (every class alike)"
    )


def drift(statistics: dict[str, Any], encoding: str) -> str:
    """Mean and histogram in a line."""
    return f"mean {statistics['mean']:.4f}; 0 {_bars(statistics['histogram'], encoding)} 1"


def _error(error: float) -> str:
    return f" (+- {error:.3f})" if error else ""


def _bars(bins: Sequence[dict[str, Any]], encoding: str) -> str:
    """A character for each bin, as high as its count."""
    return sparkline([row["count"] for row in bins], encoding)
