"""What FerKD does with a view, in words and colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labelstore.labels.actions import ACTION_WORDS

if TYPE_CHECKING:
    from labelstore.labels.ferkd import Confidence

__all__ = ["ACTIONS", "looks_at", "thresholds"]

ACTIONS = {
    "discarded_low": (ACTION_WORDS["discarded_low"], "red", "#c0504d"),
    "calibrated": (ACTION_WORDS["calibrated"], "yellow", "#e0a030"),
    "kept": (ACTION_WORDS["kept"], "green", "#4f8f5b"),
    "discarded_high": (ACTION_WORDS["discarded_high"], "blue", "#5b7fb5"),
}
"""What FerKD does with a view, by rising confidence -> its words, terminal colour, plot colour."""


def looks_at(confidence: Confidence) -> str:
    """What the thresholds are compared with."""
    return "largest probability" if confidence == "max" else "ground truth's probability"


def thresholds(rule: dict[str, Any]) -> str:
    """The thresholds of a rule as reports tell it, and what they are compared with, in words."""
    text = f"low {rule['low']:g}, middle {rule['middle']:g}, top {rule['top']:g}"
    own = rule["by_class"]
    if own is not None:
        count = len(own["classes"])
        text = f"thresholds of their own for {count} of {own['num_classes']} classes, else {text}"
    return f"{text}, by the {looks_at(rule['confidence'])}"
