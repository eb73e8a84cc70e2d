"""The pixels of views: crops of upright RGB images, and digests of files and of pixels.

Pixels are made by Pillow alone, in one order (decode, turn upright, convert to RGB, crop, resize,
mirror, and then what stages do), so that a training loop which follows the same order sees the
pixels that the teacher saw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xxhash
from PIL import Image

from labelstore.errors import UsageError, require_choice
from labelstore.images.mixing.finish import finish_views
from labelstore.images.resampling import can_resize, resize_into

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from labelstore.images.mixing.blend import CutPartners
    from labelstore.images.resampling import Crops

__all__ = [
    "INTERPOLATIONS",
    "check_cut",
    "content_digest",
    "cut",
    "pixel_digest",
    "render",
]

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "hamming": Image.Resampling.HAMMING,
    "box": Image.Resampling.BOX,
}
"""Name of a resize filter -> Pillow's filter."""


def cut(
    image: Image.Image,
    box: Sequence[int],
    flip: bool,
    size: tuple[int, int],
    interpolation: str,
) -> npt.NDArray[np.uint8]:
    """The pixels of one view: crop, then resize, then mirror left to right.

    Args:
        image: an upright RGB image.
        box: top, left, height, width in pixels, inside the image.
        flip: whether to mirror.
        size: (height, width) of the result.
        interpolation: one of `INTERPOLATIONS`.

    Returns:
        (height, width, 3) uint8, contiguous.

    Raises:
        UsageError: the image is not RGB, the box leaves it or is empty, the size is not positive,
            or the filter is unknown.
    """
    if image.mode != "RGB":
        raise UsageError(f"the image's mode is {image.mode}, expected RGB: use to_rgb first.")
    check_cut(image.size, box, size, interpolation)
    top, left, height, width = box
    cropped = image.crop((left, top, left + width, top + height))
    resized = cropped.resize((size[1], size[0]), INTERPOLATIONS[interpolation])
    pixels: npt.NDArray[np.uint8] = np.asarray(resized)
    return np.ascontiguousarray(pixels[:, ::-1] if flip else pixels)


def render(
    photo: Image.Image | npt.NDArray[np.uint8],
    views: Crops,
    size: tuple[int, int],
    interpolation: str,
    out: npt.NDArray[np.uint8] | None = None,
    partners: CutPartners | None = None,
) -> npt.NDArray[np.uint8]:
    """The pixels of views of one photo, each as ``cut`` makes it, and then as its stages do.

    Args:
        photo: an upright RGB image, as ``decode`` gives it, or its pixels (H, W, 3) uint8.
        views: n views.
        size: (height, width) of the result. interpolation: one of `INTERPOLATIONS`.
        out: (n, height, width, 3) uint8, contiguous, to be filled and returned.
        partners: makes the views that mixed ones are mixed with, as
            ``labelstore.images.PartnerPhotos`` does.

    Raises:
        UsageError: as ``cut``; a view is mixed, and ``partners`` is None.
    """
    if out is None:
        out = np.empty((len(views.box), *size, 3), dtype=np.uint8)
    _cut_all(photo, views, size, interpolation, out)
    if views.stages:
        finish_views(out, views, interpolation, partners)
    return out


def _cut_all(
    photo: Image.Image | npt.NDArray[np.uint8],
    views: Crops,
    size: tuple[int, int],
    interpolation: str,
    out: npt.NDArray[np.uint8],
) -> None:
    """Fill ``out`` with crops, resized and mirrored."""
    if can_resize(size, interpolation) and getattr(photo, "mode", "RGB") == "RGB":
        try:
            resize_into(photo, views, interpolation, out)
        except ValueError:
            # It looks at all boxes at once, and says less of the one that is wrong.
            extent = photo.shape[1::-1] if isinstance(photo, np.ndarray) else photo.size
            for box in views.box.tolist():
                check_cut(extent, box, size, interpolation)
            raise
        return
    if isinstance(photo, np.ndarray):
        photo = Image.fromarray(photo)
    for number, (box, flip) in enumerate(zip(views.box, views.flip, strict=True)):
        out[number] = cut(photo, box.tolist(), bool(flip), size, interpolation)


def check_cut(
    photo: tuple[int, int], box: Sequence[int], size: tuple[int, int], interpolation: str
) -> None:
    """Raise UsageError where a box (top, left, height, width) leaves a photo (width, height) or is
    empty, a size is not positive or a filter unknown."""
    top, left, height, width = box
    if not (0 <= top < top + height <= photo[1] and 0 <= left < left + width <= photo[0]):
        raise UsageError(
            f"the box {tuple(box)} (top, left, height, width) leaves the image of {photo[1]} x "
            f"{photo[0]} pixels or is empty: give one inside the decoded, upright image."
        )
    if min(size) < 1:
        raise UsageError(f"the size is {size}, expected (height, width) of at least 1 each.")
    require_choice("the interpolation", interpolation, INTERPOLATIONS)


def content_digest(data: bytes) -> int:
    """xxh3_64 of an encoded file, 1..2**64-1: a digest of 0 becomes 1, since 0 means "unknown"."""
    return int(xxhash.xxh3_64_intdigest(data)) or 1


def pixel_digest(pixels: npt.NDArray[np.uint8]) -> str:
    """xxh3_128, 32 hexadecimal digits, of an array's shape (as ``HxWx3``), a NUL and its bytes.

    Args:
        pixels: uint8 of any shape and memory order.

    Raises:
        UsageError: another dtype.
    """
    if pixels.dtype != np.uint8:
        raise UsageError(f"the pixels are {pixels.dtype}, expected uint8: convert them first.")
    shape = "x".join(str(length) for length in pixels.shape)
    hasher = xxhash.xxh3_128(f"{shape}\0".encode())
    hasher.update(np.ascontiguousarray(pixels).data)
    return str(hasher.hexdigest())
