"""Stages that move or hide pixels: rotate, erase; distributions are torchvision's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from labelstore.views.exact import between, exp, ln
from labelstore.views.philox import uniform
from labelstore.views.stages.parameters import StageParameters, code_of
from labelstore.views.stages.stage import (
    NumbersStage,
    one_operation,
    require_range,
)

if TYPE_CHECKING:
    from labelstore.views.stages.parameters import Draws

__all__ = ["Erase", "Rotate"]

TRIES = 10
"""How often RandomErasing draws before it erases nothing."""

AREA = (0.02, 0.33)
"""Range of the erased share of a view's area."""

ASPECT = (0.3, 3.3)
"""Range of the erased rectangle's height / width, where the view is square."""


@dataclass(frozen=True)
class Rotate(NumbersStage):
    """torchvision's RandomRotation: by an angle uniform from -degrees to degrees."""

    degrees: float = 15.0
    """0..180, counter-clockwise."""

    NAME: ClassVar[str] = "rotate"
    USAGE: ClassVar[str] = "rotate-DEGREES, as rotate-15"

    def _check(self) -> None:
        require_range(self, "degrees", 0.0, 180.0)

    def draw(self, draws: Draws) -> StageParameters:
        angle = between(uniform(draws.words(0)[0]), -self.degrees, self.degrees)
        return one_operation("rotate", np.ones(len(draws), dtype=np.bool_), angle)


@dataclass(frozen=True)
class Erase(NumbersStage):
    """torchvision's RandomErasing with its default ranges.

    Values are the rectangle's height and width as shares of the view's, and where it lies, 0 to 1,
    among the places that it fits into.
    """

    probability: float = 0.5
    """0..1."""

    NAME: ClassVar[str] = "erase"
    USAGE: ClassVar[str] = "erase-PROBABILITY, as erase-0.25"

    def _check(self) -> None:
        require_range(self, "probability", 0.0, 1.0)

    def draw(self, draws: Draws) -> StageParameters:
        operation = np.zeros((len(draws), 1), dtype=np.uint8)
        values = np.zeros((len(draws), 1, 4))
        pending = np.flatnonzero(uniform(draws.words(0)[0]) < self.probability)
        logs = ln(ASPECT[0]), ln(ASPECT[1])
        for attempt in range(TRIES):
            if not pending.size:
                break
            units = [uniform(words) for words in draws[pending].words(1 + attempt)]
            area, aspect = between(units[0], *AREA), exp(between(units[1], *logs))
            sides = np.sqrt(area * aspect), np.sqrt(area / aspect)
            fits = (sides[0] < 1) & (sides[1] < 1)
            rows = pending[fits]
            operation[rows] = code_of("erase")
            values[rows, 0] = np.stack([*sides, *units[2:]], axis=-1)[fits]
            pending = pending[~fits]
        return StageParameters(operation, values)
