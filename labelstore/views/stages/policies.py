"""Stages that choose among operations: RandAugment and TrivialAugment, as torchvision has them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from labelstore.views.philox import bounded
from labelstore.views.stages.parameters import StageParameters, code_of
from labelstore.views.stages.stage import Stage, require_range

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from labelstore.views.stages.parameters import Draws

__all__ = ["MAGNITUDES", "RandAugment", "TrivialAugmentWide"]

MAGNITUDES = 31
"""Strengths of an operation, 0 to 30."""

_SPACE = (
    "identity",
    "shear-x",
    "shear-y",
    "translate-x",
    "translate-y",
    "rotate",
    "brightness",
    "saturation",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
"""What both choose from, in torchvision's order, each as likely as any other."""

_FACTORS = ("brightness", "saturation", "contrast", "sharpness")

_RAND_AUGMENT = {
    "shear-x": 0.3,
    "shear-y": 0.3,
    "translate-x": 150.0 / 331.0,
    "translate-y": 150.0 / 331.0,
    "rotate": 30.0,
    **dict.fromkeys(_FACTORS, 0.9),
    "posterize": 4.0,
}
"""What an operation does at magnitude 30; shifts are shares of the view's side."""

_TRIVIAL_AUGMENT = {
    "shear-x": 0.99,
    "shear-y": 0.99,
    "translate-x": 32.0,
    "translate-y": 32.0,
    "rotate": 135.0,
    **dict.fromkeys(_FACTORS, 0.99),
    "posterize": 6.0,
}
"""The same; shifts are pixels."""


def _value(operation: str, magnitude: int, sign: int, most: Mapping[str, float]) -> float:
    """The value of an operation at a magnitude, in one of its two directions (1, -1)."""
    last = MAGNITUDES - 1
    if operation == "solarize":
        return 255.0 * (last - magnitude) / last
    if operation not in most:
        return 0.0
    size = most[operation] * magnitude / last
    if operation == "posterize":
        return 8.0 - round(size)
    return (1.0 if operation in _FACTORS else 0.0) + sign * size


@functools.lru_cache(maxsize=8)
def _table(trivial: bool) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """Codes (14, 31, 2) and values (14, 31, 2, 2) by operation, magnitude and sign (+, -).

    Shifts have their share of the side as the first value, their pixels as the second.
    """
    most = _TRIVIAL_AUGMENT if trivial else _RAND_AUGMENT
    codes = np.empty((len(_SPACE), MAGNITUDES, 2), dtype=np.uint8)
    values = np.zeros((*codes.shape, 2))
    for row, operation in enumerate(_SPACE):
        codes[row] = code_of(operation)
        in_pixels = trivial and operation.startswith("translate")
        for magnitude in range(MAGNITUDES):
            for column, sign in enumerate((1, -1)):
                value = _value(operation, magnitude, sign, most)
                values[row, magnitude, column, int(in_pixels)] = value
    return codes, values


@dataclass(frozen=True)
class RandAugment(Stage):
    """torchvision's RandAugment: operations one after another, all of one magnitude."""

    operations: int = 2
    """How many, 1..16."""
    magnitude: int = 9
    """0..30."""

    NAME: ClassVar[str] = "ra"
    USAGE: ClassVar[str] = "ra-nOPERATIONS-mMAGNITUDE, as ra-n2-m9"

    def _check(self) -> None:
        require_range(self, "operations", 1, 16)
        require_range(self, "magnitude", 0, MAGNITUDES - 1)

    def draw(self, draws: Draws) -> StageParameters:
        codes, values = _table(False)
        codes, values = codes[:, self.magnitude].reshape(-1), values[:, self.magnitude]
        flat = values.reshape(-1, 2)
        chosen = []
        for number in range(-(-self.operations // 2)):
            words = draws.words(number)
            for choice, side in (words[:2], words[2:]):
                chosen.append(2 * bounded(choice, len(_SPACE)) + bounded(side, 2))
        numbers = np.stack(chosen[: self.operations], axis=-1)
        return StageParameters(codes[numbers], flat[numbers])

    def __str__(self) -> str:
        return f"{self.NAME}-n{self.operations}-m{self.magnitude}"

    @classmethod
    def parse(cls, parts: Sequence[str]) -> Self:
        settings = {part[:1]: int(part[1:]) for part in parts}
        if len(parts) != 2 or set(settings) != {"n", "m"}:
            raise ValueError("n and m")
        return cls(operations=settings["n"], magnitude=settings["m"])


@dataclass(frozen=True)
class TrivialAugmentWide(Stage):
    """torchvision's TrivialAugmentWide: one operation, of any magnitude."""

    NAME: ClassVar[str] = "ta-wide"
    USAGE: ClassVar[str] = "ta-wide"

    def _check(self) -> None:
        """It has no settings."""

    def draw(self, draws: Draws) -> StageParameters:
        codes, values = _table(True)
        choice, magnitude, side, _ = draws.words(0)
        numbers = bounded(choice, len(_SPACE)) * MAGNITUDES + bounded(magnitude, MAGNITUDES)
        numbers = (2 * numbers + bounded(side, 2))[:, None]
        return StageParameters(codes.reshape(-1)[numbers], values.reshape(-1, 2)[numbers])

    def __str__(self) -> str:
        return self.NAME

    @classmethod
    def parse(cls, parts: Sequence[str]) -> Self:
        if parts:
            raise ValueError("no settings")
        return cls()
