"""Which of Pillow's two passes comes first: the sums over the columns, or those over the rows.

Pixels are rounded after each pass, so the order shows in them. Pillow long took the columns first;
12.3 takes the rows first of strips over a hundred times as tall as wide, 13 wherever the rows
shrink by far more than the columns. The installed one is asked, not its version.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["COLUMNS_FIRST", "FAR_SHRUNK_FIRST", "TALL_FIRST", "pass_order", "rows_first"]

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
