"""The view law: which crop of an image is view number v (DESIGN: a view is a pure function).

``(seed, image key, view number, width, height) -> box, flip, parameters of stages``, with the
distribution of torchvision's RandomResizedCrop and RandomHorizontalFlip: up to ten tries of area
fraction uniform in ``scale`` and aspect ratio log-uniform in ``ratio``, position uniform over
integer pixels, and a central crop when no try fits. Nothing here depends on the order or the number
of images. What else is done to a view's pixels are stages (``labelstore.views.stages``), each of
which draws by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import UsageError
from labelstore.views.exact import between, exp, ln
from labelstore.views.philox import bounded, philox4x32, uniform
from labelstore.views.stages.names import MAX_STAGES, parse_stage, stage_of_json
from labelstore.views.stages.parameters import Draws
from labelstore.views.stages.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from labelstore.views.stages.parameters import StageParameters

    Int32Array = npt.NDArray[np.int32]

__all__ = ["ViewLaw", "Views"]

TRIES = 10
"""How often RandomResizedCrop draws before it falls back to the central crop."""

_TRIED_TOGETHER = 4096
"""Tries that are drawn in one go, at most, but for the first of each view."""

# The third counter word of a draw: tries use 0..9, other parameters have numbers of their own, so
# that a later parameter never changes an earlier one.
_FLIP_DRAW = 16


@dataclass(frozen=True)
class Views:
    """What some views are: their geometry, and what is done to their pixels then."""

    box: Int32Array
    """(..., 4) int32, pixels: top, left, height, width, inside the decoded upright image."""
    flip: npt.NDArray[np.bool_]
    """(...) bool: whether the crop is mirrored left to right after resizing."""
    stages: tuple[StageParameters, ...] = ()
    """Of each stage of the law, in order, what it does to the resized and mirrored pixels."""

    def __getitem__(self, rows: Any) -> Views:
        """Some of the views."""
        stages = tuple(stage[rows] for stage in self.stages)
        return Views(self.box[rows], self.flip[rows], stages)


@dataclass(frozen=True)
class ViewLaw:
    """The parameters of the law ``philox-resized-crop``, version 1.

    Raises:
        UsageError: a value is out of its range.
    """

    seed: int = 0
    """0..2**64-1."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Range of the crop's area as a fraction of the image's, 0 < low <= high <= 1."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the crop's width / height, 0 < low <= high."""
    flip: float = 0.5
    """Probability of mirroring, 0..1."""
    stages: tuple[Stage, ...] = ()
    """What is done to the pixels after crop and mirror, in order; given as stages, or by name
    (``("ra-n2-m9", "erase-0.25")``, see ``labelstore.views.stages.names``)."""

    NAME = "philox-resized-crop"
    VERSION = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", tuple(float(value) for value in self.scale))
        object.__setattr__(self, "ratio", tuple(float(value) for value in self.ratio))
        stages = tuple(
            stage if isinstance(stage, Stage) else parse_stage(stage) for stage in self.stages
        )
        object.__setattr__(self, "stages", stages)
        if len(stages) > MAX_STAGES:
            raise UsageError(
                f"{len(stages)} augmentations were asked for, expected at most {MAX_STAGES}: "
                "leave some out.",
                arguments=("augment",),
            )
        if not 0 <= self.seed < 2**64:
            raise UsageError(
                f"seed is {self.seed}, expected 0 to 2**64-1: choose another.", arguments=("seed",)
            )
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UsageError(
                f"scale is {self.scale}, expected two numbers with 0 < low <= high <= 1: "
                "correct them.",
                arguments=("scale",),
            )
        if len(self.ratio) != 2 or not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise UsageError(
                f"ratio is {self.ratio}, expected two numbers with 0 < low <= high: correct them.",
                arguments=("ratio",),
            )
        if not 0 <= self.flip <= 1:
            raise UsageError(
                f"flip is {self.flip}, expected a probability: correct it.", arguments=("flip",)
            )

    def __call__(
        self,
        key_hashes: npt.ArrayLike,
        views: npt.ArrayLike,
        widths: npt.ArrayLike,
        heights: npt.ArrayLike,
    ) -> Views:
        """Boxes, flips and stages' parameters of views; all arguments broadcast together.

        Args:
            key_hashes: uint64, ``philox.hash_keys`` of the images' keys.
            views: view numbers, 0..2**32-1.
            widths, heights: pixels of the decoded upright images, 1..2**31-1.

        Returns:
            Views of the broadcast shape.
        """
        hashes, numbers, width, height = (
            array.reshape(-1)
            for array in np.broadcast_arrays(
                np.asarray(key_hashes, dtype=np.uint64),
                np.asarray(views, dtype=np.uint64),
                np.asarray(widths, dtype=np.int64),
                np.asarray(heights, dtype=np.int64),
            )
        )
        shape = np.broadcast_shapes(
            *(np.shape(argument) for argument in (key_hashes, views, widths, heights))
        )
        if hashes.size and min(int(width.min()), int(height.min())) < 1:
            raise UsageError("a view of an image without pixels was asked for: check its size.")
        low, high = hashes & np.uint64(0xFFFFFFFF), hashes >> np.uint64(32)
        # A few views' later tries take hardly longer together than one by one.
        box, tried, pending = np.empty((hashes.size, 4), dtype=np.int32), 0, np.arange(hashes.size)
        while pending.size and tried < TRIES:
            together = min(TRIES - tried, _TRIED_TOGETHER // pending.size) if tried else 1
            attempts = np.arange(tried, tried + max(together, 1), dtype=np.uint64)[:, None]
            words = philox4x32((low[pending], high[pending], attempts, numbers[pending]), self.seed)
            fits, candidates = self._try(words, width[pending], height[pending])
            fitting = np.flatnonzero(fits.any(axis=0))
            box[pending[fitting]] = candidates[fits[:, fitting].argmax(axis=0), fitting]
            pending = np.delete(pending, fitting)
            tried += len(attempts)
        if pending.size:
            box[pending] = _central_box(width[pending], height[pending], self.ratio)
        if self.flip in (0.0, 1.0):
            flip = np.full(hashes.size, self.flip == 1.0)
        else:
            words = philox4x32((low, high, np.uint64(_FLIP_DRAW), numbers), self.seed)
            flip = uniform(words[0]) < self.flip
        stages = tuple(
            stage.draw(Draws(self.seed, hashes, numbers, position)).reshape(shape)
            for position, stage in enumerate(self.stages)
        )
        return Views(box=box.reshape(*shape, 4), flip=flip.reshape(shape), stages=stages)

    def _try(
        self, words: Any, width: npt.NDArray[np.int64], height: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.bool_], Int32Array]:
        """Tries of n views: whether each fits (tries, n), and its box (tries, n, 4).

        Args:
            words: four (tries, n) of each try's draw. width, height: (n,) of the images.
        """
        area = (width * height) * between(uniform(words[0]), *self.scale)
        aspect = exp(between(uniform(words[1]), ln(self.ratio[0]), ln(self.ratio[1])))
        # rint rounds halves to even, as Python's round does in torchvision.
        crop_width = np.rint(np.sqrt(area * aspect)).astype(np.int64)
        crop_height = np.rint(np.sqrt(area / aspect)).astype(np.int64)
        fits = (
            (crop_width > 0) & (crop_width <= width) & (crop_height > 0) & (crop_height <= height)
        )
        top = bounded(words[2], np.where(fits, height - crop_height + 1, 1))
        left = bounded(words[3], np.where(fits, width - crop_width + 1, 1))
        return fits, np.stack([top, left, crop_height, crop_width], axis=-1).astype(np.int32)

    def to_json(self) -> dict[str, Any]:
        """The manifest's description of this law; without ``stages`` where there are none."""
        description = {
            "name": self.NAME,
            "version": self.VERSION,
            "seed": self.seed,
            "scale": list(self.scale),
            "ratio": list(self.ratio),
            "flip": self.flip,
        }
        if self.stages:
            description["stages"] = [stage.to_json() for stage in self.stages]
        return description

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> ViewLaw:
        """The law of a manifest; UsageError when it is of another name or version."""
        if (description.get("name"), description.get("version")) != (cls.NAME, cls.VERSION):
            raise UsageError(
                f"the view law is {description.get('name')!r} version "
                f"{description.get('version')!r}, expected {cls.NAME!r} version {cls.VERSION}: "
                "install the labelstore that made this store."
            )
        return cls(
            seed=description["seed"],
            scale=tuple(description["scale"]),
            ratio=tuple(description["ratio"]),
            flip=description["flip"],
            stages=tuple(stage_of_json(stage) for stage in description.get("stages", ())),
        )


def _central_box(
    width: npt.NDArray[np.int64], height: npt.NDArray[np.int64], ratio: tuple[float, float]
) -> Int32Array:
    """RandomResizedCrop's fallback: the largest central box with a ratio in range. (n, 4)."""
    aspect = width / height
    crop_width = np.where(aspect > ratio[1], np.rint(height * ratio[1]), width).astype(np.int64)
    crop_height = np.where(aspect < ratio[0], np.rint(width / ratio[0]), height).astype(np.int64)
    # A picture one pixel high or wide keeps at least that pixel.
    crop_width = np.clip(crop_width, 1, width)
    crop_height = np.clip(crop_height, 1, height)
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return np.stack([top, left, crop_height, crop_width], axis=-1).astype(np.int32)
