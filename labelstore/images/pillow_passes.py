"""Pillow's two passes of a resize: what each pixel is summed from, and which pass comes first.

A pass sums over the columns, or over the rows, by integer weights. Pixels are rounded after each,
so the order shows in them. Pillow long took the columns first; 12.3 takes the rows first of strips
over a hundred times as tall as wide, 13 wherever the rows shrink by far more than the columns. The
installed one is asked, not its version.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

__all__ = [
    "COLUMNS_FIRST",
    "FAR_SHRUNK_FIRST",
    "FILTERS",
    "TALL_FIRST",
    "WEIGHT_BITS",
    "pass_order",
    "rows_first",
    "taps",
]

WEIGHT_BITS = 22
"""Binary digits of a weight after the point: 8 bits of pixel and 2 of headroom fill an int32."""

COLUMNS_FIRST = 0
"""The columns are always first."""
FAR_SHRUNK_FIRST = 1
"""The rows are first where they shrink, and by more than twice what the columns do, in pixels."""
TALL_FIRST = 2
"""The rows are first where they shrink and the box is over a hundred times as tall as wide."""


@functools.cache
def pass_order() -> int:
    """The installed Pillow's rule: one of the three above."""
    if _takes_rows_first(150, 75):
        return FAR_SHRUNK_FIRST
    return TALL_FIRST if _takes_rows_first(307, 150) else COLUMNS_FIRST


def rows_first(
    heights: npt.NDArray[np.integer[Any]],
    widths: npt.NDArray[np.integer[Any]],
    size: tuple[int, int],
    order: int | None = None,
) -> npt.NDArray[np.bool_]:
    """Of which boxes the rows are summed first.

    Args:
        heights, widths: (n,) pixels of boxes, int64.
        size: (height, width) of the result.
        order: a rule; the installed Pillow's when None.

    Returns:
        (n,).
    """
    order = pass_order() if order is None else order
    shrunk = heights - size[0]
    if order == FAR_SHRUNK_FIRST:
        return (shrunk > 0) & (shrunk > 2 * (widths - size[1]))
    if order == TALL_FIRST:
        return (shrunk > 0) & (heights > 100 * widths)
    return np.zeros(len(heights), dtype=bool)


def _takes_rows_first(height: int, rows: int) -> bool:
    """Whether a strip of ``height`` x 2 pixels becomes ``rows`` x 3 by its rows first."""
    # Bytes without a pattern, the same in each process.
    noise = np.arange(1, 2 * height + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    strip = Image.fromarray((noise >> np.uint64(40)).astype(np.uint8).reshape(height, 2))

    def resized(*sizes: tuple[int, int]) -> bytes:
        image = strip
        for size in sizes:
            image = image.resize(size, Image.Resampling.BICUBIC)
        return image.tobytes()

    whole = resized((3, rows))
    return whole == resized((2, rows), (3, rows)) and whole != resized((3, height), (3, rows))


def _triangle(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _box(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _cubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The cubic convolution kernel with a = -1/2 (Keys 1981, equation 4)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _lanczos(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(np.abs(x) < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0)


FILTERS: dict[str, tuple[Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]], float]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_cubic, 2.0),
    "lanczos": (_lanczos, 3.0),
    "box": (_box, 0.5),
}
"""Interpolation -> its kernel and the kernel's support, in pixels of the result."""


@functools.lru_cache(maxsize=8192)
def taps(
    length: int, size: int, interpolation: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Where each pixel of a resized line is summed from, and with what weights.

    Args:
        length: pixels of the line; size: pixels of the result.
        interpolation: one of ``FILTERS``.

    Returns:
        (size,) int64 first pixels, and (size, T) int32 weights in units of 2**-22; those past a
        pixel's last tap are 0.
    """
    kernel, support = FILTERS[interpolation]
    scale = length / size
    stretch = max(scale, 1.0)
    reach = support * stretch
    centres = (np.arange(size) + 0.5) * scale
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + reach + 0.5).astype(np.int64), length)
    steps = np.arange(int((last - first).max()))
    places = first[:, None] + steps
    weights = kernel((places - centres[:, None] + 0.5) * (1.0 / stretch))
    weights = np.where(places < last[:, None], weights, 0.0)
    # Summed one after another, as Pillow does: another order may round otherwise.
    weights = weights / np.cumsum(weights, axis=1)[:, -1:]
    scaled = weights * (1 << WEIGHT_BITS)
    return first, np.trunc(np.where(scaled < 0, scaled - 0.5, scaled + 0.5)).astype(np.int32)
