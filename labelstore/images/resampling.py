"""Many boxes of a photo resized in one call, to the very bytes that Pillow makes.

The compiled part (``_resample.c``) takes Pillow's integer sums over many neighbours at once and
without the interpreter's lock. It is asked only where it gives what the installed Pillow gives:
the two are compared once a process. Where it was not built, Pillow cuts, with the same result.

What pays for it: ``python -m benchmarks.generate --teacher free``.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import PIL
from PIL import Image

from labelstore.compiled import compiled_part
from labelstore.images.pillow_passes import pass_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from labelstore.images.mixing.blend import PartnersOf
    from labelstore.images.stages import StageOf

__all__ = ["Crops", "can_resize", "pixels_of", "resize_into", "whole_pays", "why_unused"]

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "hamming": Image.Resampling.HAMMING,
    "box": Image.Resampling.BOX,
}
"""Interpolation -> the number of its filter: all of Pillow's that sum."""

_LONGEST = 65536
"""Pixels of a side of the result, at most."""

_NOT_LENT = (AttributeError, ValueError)
"""What is raised where Pillow lends no memory: before 11.2, or where an image lies otherwise."""

_PIECE = 1 << 23
"""Bytes of Pillow's memory that are taken out of it at once."""


class Crops(Protocol):
    """What views of a photo are: ``labelstore.views.Views`` tells it."""

    @property
    def box(self) -> npt.NDArray[np.int32]:
        """(n, 4) pixels: top, left, height, width, inside the upright image."""

    @property
    def flip(self) -> npt.NDArray[np.bool_]:
        """(n,): whether to mirror."""

    @property
    def stages(self) -> Sequence[StageOf]:
        """What is done to the pixels then; nothing where it is empty."""

    @property
    def partners(self) -> PartnersOf | None:
        """What the last stage mixes the views with; None where it mixes nothing."""


def can_resize(size: tuple[int, int], interpolation: str) -> bool:
    """Whether ``resize_into`` can make views of a (height, width) by a filter, as Pillow would."""
    return interpolation in _FILTERS and max(size) <= _LONGEST and _compiled() is not None


def whole_pays(photo: tuple[int, int], boxes: npt.NDArray[np.int32]) -> bool:
    """Whether taking a photo (width, height) out of Pillow costs less than taking its boxes out."""
    return int((boxes[:, 2].astype(np.int64) * boxes[:, 3]).sum()) > photo[0] * photo[1]


def pixels_of(photo: Image.Image) -> npt.NDArray[np.uint8]:
    """The pixels (H, W, 3) uint8 of an RGB image.

    Where the compiled part is there, out of Pillow's memory without the interpreter's lock, which
    Pillow's own way (``numpy.array``) holds for about as long as cutting two views takes.
    """
    compiled = _compiled()
    if compiled is None:
        return np.array(photo)
    try:
        return _copied_pixels(compiled[0], photo)
    except _NOT_LENT:
        return np.array(photo)


def _copied_pixels(module: Any, photo: Image.Image) -> npt.NDArray[np.uint8]:
    width, height = photo.size
    out = np.empty((height, width, 3), dtype=np.uint8)
    # Pillow lends images that lie in one piece, up to 16 MB.
    rows = max(_PIECE // (4 * width), 1)
    for top in range(0, height, rows):
        part = out[top : top + rows]
        piece = photo if rows >= height else photo.crop((0, top, width, top + len(part)))
        module.take_pixels(*piece.__arrow_c_array__(), part)
    return out


def resize_into(
    photo: Image.Image | npt.NDArray[np.uint8],
    views: Crops,
    interpolation: str,
    out: npt.NDArray[np.uint8],
) -> None:
    """Fill ``out`` with crops of one photo: crop, then resize, then mirror left to right.

    What stages do is left to who asked.

    Args:
        photo: RGB, or its pixels (H, W, 3) uint8.
        views: n crops, inside the photo.
        interpolation: one for which ``can_resize`` is true.
        out: (n, height, width, 3) uint8, contiguous; equal to ``labelstore.images.cut`` afterwards.

    Raises:
        ValueError: shapes that do not fit each other, or a box that leaves the photo.
    """
    module, order = _compiled()  # type: ignore[misc]
    number = _FILTERS[interpolation]
    if isinstance(photo, np.ndarray) or whole_pays(photo.size, views.box):
        pixels = pixels_of(photo) if isinstance(photo, Image.Image) else photo
        _call(module, order, np.ascontiguousarray(pixels), views.box, views.flip, number, out)
        return
    boxes = views.box.astype(np.int64)
    ends = boxes[:, :2] + boxes[:, 2:]
    if (boxes[:, :2] < 0).any() or (boxes[:, 2:] < 1).any() or (ends > photo.size[::-1]).any():
        raise ValueError("a box outside the photo")
    for row, (top, left, height, width) in enumerate(boxes.tolist()):
        crop = pixels_of(photo.crop((left, top, left + width, top + height)))
        box, flip = np.array([[0, 0, height, width]]), views.flip[row : row + 1]
        _call(module, order, crop, box, flip, number, out[row : row + 1])


def _call(
    module: Any,
    order: int,
    photo: npt.NDArray[np.uint8],
    boxes: npt.NDArray[np.int32],
    flips: npt.NDArray[np.bool_],
    number: int,
    out: npt.NDArray[np.uint8],
) -> None:
    module.resize_boxes(
        photo,
        np.ascontiguousarray(boxes, dtype=np.int32),
        np.ascontiguousarray(flips, dtype=np.bool_).view(np.uint8),
        out,
        int(number),
        order,
    )


def why_unused() -> str | None:
    """Why the compiled part, which is there, does not cut; None where it does, or is not there."""
    module = compiled_part("labelstore.images._resample")
    if module is None or _compiled() is not None:
        return None
    if not module.usable():
        return "the processor has no AVX2"
    return f"Pillow {PIL.__version__} cuts to other pixels"


@functools.cache
def _compiled() -> tuple[Any, int] | None:
    """The compiled module and the order of this Pillow's passes; None where Pillow has to cut."""
    module = compiled_part("labelstore.images._resample")
    if module is None or not module.usable():
        return None
    order = pass_order()
    return (module, order) if _is_pillow(module, order) else None


def _is_pillow(module: Any, order: int) -> bool:
    """Whether views of a few shapes, by all filters, and a whole photo have Pillow's pixels."""
    height, width = 211, 71
    # Bytes without a pattern, the same in each process.
    steps = np.arange(height * width * 3, dtype=np.uint64) + 1
    noise = (steps * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)).astype(np.uint8)
    photo = noise.reshape(height, width, 3)
    image = Image.fromarray(photo)
    with contextlib.suppress(*_NOT_LENT):
        if not np.array_equal(_copied_pixels(module, image), photo):
            return False
    boxes = np.array(
        [
            [0, 0, height, width],
            [3, 5, 61, 20],
            [7, 1, 20, 61],
            [40, 30, 9, 40],
            [11, 13, 40, 37],
            [0, 68, height, 2],
        ],
        dtype=np.int32,
    )
    flips = np.array([False, True, False, True, False, True])
    for rows, columns in ((16, 16), (40, 37), (96, 24)):
        out = np.empty((len(boxes), rows, columns, 3), dtype=np.uint8)
        for number in _FILTERS.values():
            _call(module, order, photo, boxes, flips, number, out)
            for (top, left, tall, wide), flip, view in zip(boxes.tolist(), flips, out, strict=True):
                # Not of `image`: a crop is refused where few pixels are let in.
                crop = Image.fromarray(photo[top : top + tall, left : left + wide])
                expected = np.asarray(crop.resize((columns, rows), number))
                if not np.array_equal(view, expected[:, ::-1] if flip else expected):
                    return False
    return True
