"""What FerKD does with a view, in words and colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labelstore.labels.ferkd import Confidence

__all__ = ["ACTIONS", "looks_at"]

ACTIONS = {
    "discarded_low": ("discarded (too hard)", "red", "#c0504d"),
    "calibrated": ("calibrated", "yellow", "#e0a030"),
    "kept": ("kept", "green", "#4f8f5b"),
    "discarded_high": ("discarded (too easy)", "blue", "#5b7fb5"),
}
"""What FerKD does with a view, by rising confidence -> its words, terminal colour, plot colour."""


def looks_at(confidence: Confidence) -> str:
    """What the thresholds are compared with."""
    return "largest probability" if confidence == "max" else "ground truth's probability"
