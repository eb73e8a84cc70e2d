"""What FerKD does with views: in words, counted, as labels; light enough for ``--help``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from labelstore.labels.soft_labels import SoftLabels

__all__ = [
    "ACTION_WORDS",
    "Action",
    "ActionCounts",
    "Calibrated",
    "Combine",
    "Discard",
    "action_shares",
]

Discard = Literal["replace", "mask", "keep"]
Combine = Literal["all", "any", "mean"]

ACTION_WORDS = {
    "discarded_low": "discarded (too hard)",
    "calibrated": "calibrated",
    "kept": "kept",
    "discarded_high": "discarded (too easy)",
    "discarded": "discarded (by each teacher for its own reason)",
}
"""By rising confidence, but for the last, of ensembles alone -> its words."""


class Action(IntEnum):
    """What the rule does with a view."""

    KEPT = 0
    CALIBRATED = 1
    DISCARDED = 2


@dataclass(frozen=True)
class ActionCounts:
    """How many views fall under which part of a rule."""

    discarded_low: int = 0
    """Confidence at or below ``low``."""
    calibrated: int = 0
    """In (low, middle]."""
    kept: int = 0
    """In (middle, top]."""
    discarded_high: int = 0
    """Above ``top``."""

    def __add__(self, other: ActionCounts) -> ActionCounts:
        return ActionCounts(
            self.discarded_low + other.discarded_low,
            self.calibrated + other.calibrated,
            self.kept + other.kept,
            self.discarded_high + other.discarded_high,
        )

    @property
    def views(self) -> int:
        """How many views there are."""
        return self.discarded_low + self.calibrated + self.kept + self.discarded_high


def action_shares(action: npt.NDArray[np.uint8]) -> dict[str, float]:
    """The share, 0..1, of each ``Action`` among some (...), as ``kept``, ``calibrated`` and
    ``discarded``."""
    return {member.name.lower(): float((action == member).mean()) for member in Action}


@dataclass(frozen=True)
class Calibrated:
    """Labels after calibration."""

    labels: SoftLabels
    """Of every view; a discarded view's is its soft label as recovered."""
    action: npt.NDArray[np.uint8]
    """(...) uint8, the values of ``Action``."""
    weight: npt.NDArray[np.float32]
    """(...) float32: 0 for a discarded view under ``discard="mask"``, else 1: what to multiply the
    view's loss by. (A view that a schedule shows although it is discarded, for lack of a better
    one, counts.)"""
