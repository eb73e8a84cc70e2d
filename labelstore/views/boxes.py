"""Boxes and flips of views: the geometry of ``labelstore.views.law``, drawn.

NumPy says what is drawn. The compiled part (``_boxes.c``) draws the same to the bit, in a call that
takes a photo's views a few microseconds and does not hold the interpreter's lock: NumPy's hundred
calls a photo took a tenth of what cutting it takes, one worker at a time. It is compared with NumPy
before it is used; where it was not built, NumPy draws.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from labelstore.compiled import compiled_part
from labelstore.views.exact import between, exp, ln
from labelstore.views.philox import bounded, philox4x32, uniform

if TYPE_CHECKING:
    import numpy.typing as npt

    BoolArray = npt.NDArray[np.bool_]
    Int32Array = npt.NDArray[np.int32]
    Int64Array = npt.NDArray[np.int64]
    UInt64Array = npt.NDArray[np.uint64]

__all__ = ["TRIES", "BoxLaw", "draw_boxes", "why_unused"]

TRIES = 10
"""How often RandomResizedCrop draws before it falls back to the central crop."""

_TRIED_TOGETHER = 4096
"""Tries that are drawn in one go, at most, but for the first of each view."""

# The third counter word of a draw: tries use 0..9, other parameters have numbers of their own, so
# that a later parameter never changes an earlier one.
_FLIP_DRAW = 16


class BoxLaw(NamedTuple):
    """The numbers of a ``ViewLaw`` on which boxes and flips depend."""

    seed: int
    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip: float


def draw_boxes(
    law: BoxLaw,
    hashes: UInt64Array,
    numbers: UInt64Array,
    width: Int64Array,
    height: Int64Array,
) -> tuple[Int32Array, BoolArray]:
    """Boxes (n, 4) and flips (n,) of n views.

    Args:
        law: the law.
        hashes: (n,) of the images' keys. numbers: (n,) of the views.
        width, height: (n,) pixels of the images, at least 1.
    """
    module = _compiled()
    if module is None:
        return _by_numpy(law, hashes, numbers, width, height)
    return _by_module(module, law, hashes, numbers, width, height)


def _by_module(
    module: Any,
    law: BoxLaw,
    hashes: UInt64Array,
    numbers: UInt64Array,
    width: Int64Array,
    height: Int64Array,
) -> tuple[Int32Array, BoolArray]:
    box, flip = np.empty((hashes.size, 4), np.int32), np.empty(hashes.size, np.bool_)
    logs = (ln(law.ratio[0]), ln(law.ratio[1]))
    views = (np.ascontiguousarray(part) for part in (hashes, numbers, width, height))
    module.draw(*views, (law.seed, *law.scale, *logs, *law.ratio, law.flip), box, flip)
    return box, flip


def why_unused() -> str | None:
    """Why the compiled part, which is there, does not draw; None where it does, or is not there."""
    if compiled_part("labelstore.views._boxes") is None or _compiled() is not None:
        return None
    return f"NumPy {np.__version__} draws other views"


@functools.cache
def _compiled() -> Any:
    """The compiled module; None where NumPy has to draw."""
    module = compiled_part("labelstore.views._boxes")
    return module if module is not None and _is_numpys(module) else None


def _is_numpys(module: Any) -> bool:
    """Whether views of a few laws and sizes, central boxes among them, are what NumPy draws."""
    count = 240
    numbers = np.arange(count, dtype=np.uint64)
    hashes = numbers * np.uint64(0x9E3779B97F4A7C15)
    width = np.resize(np.array([500, 375, 31, 1, 900, 4000], dtype=np.int64), count)
    height = np.resize(np.array([375, 500, 900, 500, 31, 3000, 1], dtype=np.int64), count)
    for law in (
        BoxLaw(1, (0.08, 1.0), (3 / 4, 4 / 3), 0.5),
        BoxLaw(2**64 - 1, (0.3, 0.9), (0.2, 6.0), 0.0),
    ):
        of = law, hashes, numbers, width, height
        pairs = zip(_by_module(module, *of), _by_numpy(*of), strict=True)
        if not all(np.array_equal(drawn, expected) for drawn, expected in pairs):
            return False
    return True


def _by_numpy(
    law: BoxLaw,
    hashes: UInt64Array,
    numbers: UInt64Array,
    width: Int64Array,
    height: Int64Array,
) -> tuple[Int32Array, BoolArray]:
    low, high = hashes & np.uint64(0xFFFFFFFF), hashes >> np.uint64(32)
    # A few views' later tries take hardly longer together than one by one.
    box, tried, pending = np.empty((hashes.size, 4), dtype=np.int32), 0, np.arange(hashes.size)
    while pending.size and tried < TRIES:
        together = min(TRIES - tried, _TRIED_TOGETHER // pending.size) if tried else 1
        attempts = np.arange(tried, tried + max(together, 1), dtype=np.uint64)[:, None]
        words = philox4x32((low[pending], high[pending], attempts, numbers[pending]), law.seed)
        fits, candidates = _try(law, words, width[pending], height[pending])
        fitting = np.flatnonzero(fits.any(axis=0))
        box[pending[fitting]] = candidates[fits[:, fitting].argmax(axis=0), fitting]
        pending = np.delete(pending, fitting)
        tried += len(attempts)
    if pending.size:
        box[pending] = _central_box(width[pending], height[pending], law.ratio)
    if law.flip in (0.0, 1.0):
        flip = np.full(hashes.size, law.flip == 1.0)
    else:
        words = philox4x32((low, high, np.uint64(_FLIP_DRAW), numbers), law.seed)
        flip = uniform(words[0]) < law.flip
    return box, flip


def _try(
    law: BoxLaw, words: Any, width: npt.NDArray[np.int64], height: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.bool_], Int32Array]:
    """Tries of n views: whether each fits (tries, n), and its box (tries, n, 4).

    Args:
        words: four (tries, n) of each try's draw. width, height: (n,) of the images.
    """
    area = (width * height) * between(uniform(words[0]), *law.scale)
    aspect = exp(between(uniform(words[1]), ln(law.ratio[0]), ln(law.ratio[1])))
    # rint rounds halves to even, as Python's round does in torchvision.
    crop_width = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    crop_height = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (crop_width > 0) & (crop_width <= width) & (crop_height > 0) & (crop_height <= height)
    top = bounded(words[2], np.where(fits, height - crop_height + 1, 1))
    left = bounded(words[3], np.where(fits, width - crop_width + 1, 1))
    return fits, np.stack([top, left, crop_height, crop_width], axis=-1).astype(np.int32)


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
