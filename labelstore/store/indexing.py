"""Image and view numbers as a caller gives them: checked, and of one shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    Int64Array = npt.NDArray[np.int64]

__all__ = ["as_array", "common_shape", "in_range"]


def as_array(given: Any, what: str) -> npt.NDArray[Any]:
    """Numbers or keys as an array; UsageError for lists of unequal length."""
    try:
        return np.asarray(given)
    except ValueError:
        raise UsageError(
            f"{what} numbers are nested lists of unequal length, expected those of one array."
        ) from None


def in_range(given: Any, count: int, what: str, where: str) -> Int64Array:
    """(...) int64 numbers, all 0..count-1.

    Args:
        given: integers of any shape; what: what they number; where: what has ``count`` of them.

    Raises:
        NotFoundError: one is out of range. UsageError: they are no integers.
    """
    numbers = as_array(given, what)
    if numbers.dtype.kind not in "iu" and numbers.size:
        raise UsageError(f"{what} numbers have type {numbers.dtype}, expected integers or keys.")
    if numbers.size and not (int(numbers.min()) >= 0 and int(numbers.max()) < count):
        raise NotFoundError(
            f"{what} {numbers.min() if numbers.min() < 0 else numbers.max()} was asked for, "
            f"{where} has {count} (0 to {count - 1})."
        )
    return numbers.astype(np.int64)


def common_shape(images: Int64Array, views: Int64Array) -> tuple[int, ...]:
    """The shape that both broadcast to; UsageError when they do not."""
    try:
        return np.broadcast_shapes(images.shape, views.shape)
    except ValueError:
        raise UsageError(
            f"images of shape {images.shape} and views of shape {views.shape} do not broadcast "
            "together: give one view an image, or images[:, None] and all views."
        ) from None
