"""What a stage does to views: operations in order, and a few numbers for each; and its draws."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from labelstore.views.philox import philox4x32

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["OPERATIONS", "Draws", "StageParameters", "code_of"]

OPERATIONS = (
    "identity",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "sharpness",
    "grayscale",
    "rotate",
    "shear-x",
    "shear-y",
    "translate-x",
    "translate-y",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
    "blur",
    "erase",
    "mixup",
    "cutmix",
)
"""Names of the operations; their places are the codes. What each does to pixels, and with which
values: ``labelstore.images.stages``, of the last two ``labelstore.images.mixing``."""

_POSITION_BITS = 16
"""A stage's draws have the third counter words ``(position + 1) * 2**16`` and up: a crop's are
below, and no stage's are another's."""


def code_of(operation: str) -> int:
    """The code of an operation."""
    return OPERATIONS.index(operation)


@dataclass(frozen=True)
class StageParameters:
    """What one stage does to some views: S operations of each, in order, with W values each."""

    operation: npt.NDArray[np.uint8]
    """(..., S) uint8: places in ``OPERATIONS``; 0 leaves the pixels as they are."""
    values: npt.NDArray[np.float64]
    """(..., S, W) float64: what the operations take; 0 where one takes nothing."""

    names: ClassVar[tuple[str, ...]] = OPERATIONS
    """Of the operations, by code."""

    def __getitem__(self, rows: Any) -> StageParameters:
        """Those of some of the views."""
        return StageParameters(self.operation[rows], self.values[rows])

    def reshape(self, shape: tuple[int, ...]) -> StageParameters:
        """Those of views in another shape."""
        steps, width = self.values.shape[-2:]
        return StageParameters(
            self.operation.reshape(*shape, steps), self.values.reshape(*shape, steps, width)
        )


@dataclass(frozen=True)
class Draws:
    """The random numbers of one stage for n views."""

    seed: int
    hashes: npt.NDArray[np.uint64]
    """(n,) of the images' keys."""
    views: npt.NDArray[np.uint64]
    """(n,) view numbers."""
    position: int
    """Of the stage in its law, from 0."""

    def __len__(self) -> int:
        return len(self.hashes)

    def __getitem__(self, rows: Any) -> Draws:
        """Those of some of the views: the same numbers."""
        return Draws(self.seed, self.hashes[rows], self.views[rows], self.position)

    @functools.cached_property
    def _halves(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        return self.hashes & np.uint64(0xFFFFFFFF), self.hashes >> np.uint64(32)

    def words(self, number: int) -> tuple[npt.NDArray[np.uint32], ...]:
        """Four arrays (n,) of uint32: draw ``number`` (0..2**16-1) of the stage."""
        low, high = self._halves
        draw = np.uint64(((self.position + 1) << _POSITION_BITS) + number)
        return philox4x32((low, high, draw, self.views), self.seed)
