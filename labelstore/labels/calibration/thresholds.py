"""Thresholds of FerKD's rule: the same for all views, or those of a ground-truth class."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from labelstore.errors import LabelError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["ClassThresholds", "Edges", "Parts"]


class Parts(NamedTuple):
    """Which confidences (...) fall under which part of a rule: bool, of the confidences' type."""

    low: Any
    calibrated: Any
    high: Any


class Edges(NamedTuple):
    """The thresholds that views (...) are compared with, as float32 values: one number for all, or
    arrays or tensors that broadcast with the confidences."""

    low: Any
    middle: Any
    top: Any

    def parts(self, confidence: Any) -> Parts:
        """The rule itself: ``low`` and ``high``, which are discarded, and ``calibrated``.

        Args:
            confidence: (...) float32, a NumPy array or a torch tensor on any device.

        Returns:
            bool arrays or tensors (...); where none is True, the label is kept. NaN is in none.
        """
        below = confidence <= self.low
        return Parts(below, (confidence <= self.middle) & ~below, confidence > self.top)


@dataclass(frozen=True)
class ClassThresholds:
    """Thresholds of some ground-truth classes; views of all others have those of their rule.

    Raises:
        UsageError: classes that are no rising ids, or thresholds that are not one for each, out of
        order or out of range.
    """

    num_classes: int
    """How many classes there are."""
    classes: tuple[int, ...]
    """The n classes that have thresholds of their own: rising ids, 0..num_classes-1."""
    low: tuple[float, ...]
    """(n,) of each, as ``FerKD.low``."""
    middle: tuple[float, ...]
    """(n,) of each, as ``FerKD.middle``."""
    top: tuple[float, ...]
    """(n,) of each, as ``FerKD.top``."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(int(number) for number in self.classes))
        for name in ("low", "middle", "top"):
            object.__setattr__(self, name, tuple(float(edge) for edge in getattr(self, name)))
        rising = all(a < b for a, b in zip(self.classes, self.classes[1:], strict=False))
        if not rising or (
            self.classes and not 0 <= self.classes[0] <= self.classes[-1] < self.num_classes
        ):
            raise UsageError(
                f"the classes with thresholds of their own are {self.classes}, expected rising ids "
                f"from 0 to {self.num_classes - 1}: put them in order, each once."
            )
        edges = self.low, self.middle, self.top
        if {len(edge) for edge in edges} != {len(self.classes)}:
            raise UsageError(
                f"{', '.join(str(len(edge)) for edge in edges)} thresholds low, middle and top "
                f"were given for {len(self.classes)} classes, expected one for each: give as many."
            )
        for number, low, middle, top in zip(self.classes, *edges, strict=True):
            require_ordered(low, middle, top, f" of class {number}")

    def of_class(self, number: int) -> tuple[float, float, float] | None:
        """The thresholds low, middle and top of a class; None where it has none of its own."""
        if number not in self._place:
            return None
        place = self._place[number]
        return self.low[place], self.middle[place], self.top[place]

    def table(self, others: tuple[float, float, float]) -> npt.NDArray[np.float32]:
        """(3, num_classes + 1) float32: low, middle and top by class; the last column, which is
        also at -1, for an unknown ground truth.

        Args:
            others: low, middle and top of the classes that have none of their own.
        """
        out = np.empty((3, self.num_classes + 1), dtype=np.float32)
        out[:] = np.array(others, dtype=np.float32)[:, None]
        out[:, list(self.classes)] = np.array([self.low, self.middle, self.top], dtype=np.float32)
        return out

    def to_json(self) -> dict[str, Any]:
        """The fields by name, as JSON has them; ``ClassThresholds(**told)`` of it is the same."""
        return {
            "num_classes": self.num_classes,
            "classes": list(self.classes),
            "low": list(self.low),
            "middle": list(self.middle),
            "top": list(self.top),
        }

    def digest(self) -> str:
        """32 hexadecimal digits that name these thresholds."""
        numbers = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(numbers.encode()).hexdigest()[:32]

    def require_known(self, targets: npt.ArrayLike | None) -> npt.NDArray[np.int64]:
        """Ground truth (...), each -1 or a class; LabelError otherwise."""
        if targets is None:
            raise LabelError(
                "FerKD's thresholds by class need the ground truth and none was given: give "
                "targets, -1 where it is unknown.",
                arguments=("targets",),
            )
        classes = np.asarray(targets, dtype=np.int64)
        if classes.size and not -1 <= classes.min() <= classes.max() < self.num_classes:
            raise LabelError(
                f"the ground truth runs from {classes.min()} to {classes.max()} and there are "
                f"thresholds for {self.num_classes} classes, expected -1 to "
                f"{self.num_classes - 1}: give a rule that was fitted to a store of these classes."
            )
        return classes

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # Of thousands of numbers, and asked for with every batch.
        return hash((self.num_classes, self.classes, self.low, self.middle, self.top))

    @cached_property
    def _place(self) -> dict[int, int]:
        return {number: place for place, number in enumerate(self.classes)}


def require_ordered(low: float, middle: float, top: float, whose: str = "") -> None:
    """UsageError unless three thresholds are in order and in 0..1."""
    if not 0 <= low <= middle <= top <= 1:
        raise UsageError(
            f"thresholds{whose} are {low}, {middle}, {top}, expected "
            "0 <= low <= middle <= top <= 1: put them in order."
        )
