"""Stages that change colours: jitter, gray, solarize, blur; distributions are torchvision's."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from labelstore.views.exact import between
from labelstore.views.philox import bounded, uniform
from labelstore.views.stages.parameters import StageParameters, code_of
from labelstore.views.stages.stage import (
    NumbersStage,
    Stage,
    joined,
    numbers_of,
    one_operation,
    require_range,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from labelstore.views.stages.parameters import Draws

__all__ = ["Blur", "Gray", "Jitter", "Solarize"]

_JITTERED = ("brightness", "contrast", "saturation", "hue")
_ORDERS = np.array(list(itertools.permutations(range(4))), dtype=np.int64)
"""(24, 4): all orders of four, in lexicographic order."""


@dataclass(frozen=True)
class Jitter(Stage):
    """torchvision's ColorJitter: four changes in an order that is drawn, too.

    A factor is uniform from max(0, 1 - s) to 1 + s, s the strength; a shift of hue from -s to s, in
    turns of the colour circle. ``jitter-0.4`` is timm's ``--color-jitter 0.4``: no hue.
    """

    brightness: float = 0.4
    """0..100."""
    contrast: float = 0.4
    """0..100."""
    saturation: float = 0.4
    """0..100."""
    hue: float = 0.0
    """0..0.5."""
    probability: float = 1.0
    """Of doing it at all, 0..1."""

    NAME: ClassVar[str] = "jitter"
    USAGE: ClassVar[str] = "jitter-0.4, or jitter-BRIGHTNESS-CONTRAST-SATURATION-HUE, and -p0.8"

    def _check(self) -> None:
        for name in _JITTERED:
            require_range(self, name, 0.0, 0.5 if name == "hue" else 100.0)
        require_range(self, "probability", 0.0, 1.0)

    def draw(self, draws: Draws) -> StageParameters:
        strengths = [float(getattr(self, name)) for name in _JITTERED]
        values = np.zeros((len(draws), 4))
        units = draws.words(0)
        for column, (strength, words) in enumerate(zip(strengths, units, strict=True)):
            if strength:
                centre = 0.0 if _JITTERED[column] == "hue" else 1.0
                low = centre - strength if centre == 0.0 else max(0.0, centre - strength)
                values[:, column] = between(uniform(words), low, centre + strength)
        codes = [code_of(name) if s else 0 for name, s in zip(_JITTERED, strengths, strict=True)]
        order_words, whether, _, _ = draws.words(1)
        number = bounded(order_words, len(_ORDERS))
        operation = np.array(codes, dtype=np.uint8)[_ORDERS][number]
        values = np.take_along_axis(values, _ORDERS[number], axis=1)
        if self.probability < 1:
            left = uniform(whether) >= self.probability
            operation[left], values[left] = 0, 0.0
        return StageParameters(operation, values[..., None])

    def __str__(self) -> str:
        strengths = [float(getattr(self, name)) for name in _JITTERED]
        if len(set(strengths[:3])) == 1 and not self.hue:
            strengths = strengths[:1]
        chance = "" if self.probability == 1 else joined("-p", self.probability).replace("p-", "p")
        return joined(self.NAME, *strengths) + chance

    @classmethod
    def parse(cls, parts: Sequence[str]) -> Self:
        chance = 1.0
        if parts and parts[-1].startswith("p"):
            (chance,) = numbers_of([parts[-1][1:]])
            parts = parts[:-1]
        strengths = numbers_of(parts)
        if len(strengths) == 1:
            strengths = strengths * 3
        if len(strengths) == 3:
            strengths = [*strengths, 0.0]
        # A ValueError where there are other numbers of them.
        brightness, contrast, saturation, hue = strengths
        return cls(brightness, contrast, saturation, hue, chance)


@dataclass(frozen=True)
class Gray(NumbersStage):
    """torchvision's RandomGrayscale."""

    probability: float = 0.1
    """0..1."""

    NAME: ClassVar[str] = "gray"
    USAGE: ClassVar[str] = "gray-PROBABILITY, as gray-0.2"

    def _check(self) -> None:
        require_range(self, "probability", 0.0, 1.0)

    def draw(self, draws: Draws) -> StageParameters:
        return one_operation("grayscale", uniform(draws.words(0)[0]) < self.probability)


@dataclass(frozen=True)
class Solarize(NumbersStage):
    """torchvision's RandomSolarize: values from the threshold on are inverted."""

    probability: float = 0.5
    """0..1."""
    threshold: float = 128.0
    """0..255."""

    NAME: ClassVar[str] = "solarize"
    USAGE: ClassVar[str] = "solarize-PROBABILITY or solarize-PROBABILITY-THRESHOLD"

    def _check(self) -> None:
        require_range(self, "probability", 0.0, 1.0)
        require_range(self, "threshold", 0.0, 255.0)

    def draw(self, draws: Draws) -> StageParameters:
        applies = uniform(draws.words(0)[0]) < self.probability
        return one_operation("solarize", applies, self.threshold)


@dataclass(frozen=True)
class Blur(NumbersStage):
    """A Gaussian blur whose standard deviation is uniform, as torchvision's GaussianBlur draws it.

    The pixels are those of Pillow's GaussianBlur, as in SimCLR's, MoCo v2's and DINO's recipes.
    """

    probability: float = 0.5
    """0..1."""
    low: float = 0.1
    """Smallest standard deviation, in pixels of the teacher's input; 0..100."""
    high: float = 2.0
    """Largest; ``low``..100."""

    NAME: ClassVar[str] = "blur"
    USAGE: ClassVar[str] = "blur-PROBABILITY or blur-PROBABILITY-LOW-HIGH"

    def _check(self) -> None:
        require_range(self, "probability", 0.0, 1.0)
        require_range(self, "low", 0.0, 100.0)
        require_range(self, "high", self.low, 100.0)

    def draw(self, draws: Draws) -> StageParameters:
        whether, sigma, _, _ = draws.words(0)
        applies = uniform(whether) < self.probability
        return one_operation("blur", applies, between(uniform(sigma), self.low, self.high))
