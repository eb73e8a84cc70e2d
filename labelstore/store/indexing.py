"""Image and view numbers as a caller gives them: checked, and of one shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    Int64Array = npt.NDArray[np.int64]

__all__ = ["as_array", "common_shape", "evenly_spaced", "in_range", "one_place", "positions_of"]

_NUMBERS = (np.ndarray, np.integer)


def as_array(values: Any, what: str) -> npt.NDArray[Any]:
    """Numbers or keys as an array; UsageError for lists of unequal length."""
    try:
        return np.asarray(values)
    except ValueError:
        raise UsageError(
            f"{what} numbers are nested lists of unequal length, expected those of one array."
        ) from None


def in_range(values: Any, count: int, what: str, where: str) -> Int64Array:
    """(...) int64 numbers, all 0..count-1.

    Args:
        values: integers of any shape; what: what they number; where: what has ``count`` of them.

    Raises:
        NotFoundError: one is out of range. UsageError: they are no integers.
    """
    numbers = as_array(values, what)
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


def positions_of(
    images: npt.ArrayLike | Sequence[str],
    index_of: Callable[[list[str]], Int64Array],
    num_images: int,
    name: str,
) -> Int64Array:
    """Positions of images given by position or by key, in the shape that they come in.

    Args:
        images: numbers or keys.
        index_of: positions (n,) of n keys; raises NotFoundError for one that is not there.
        num_images: how many images there are.
        name: of what has them, for messages.

    Raises:
        NotFoundError: no such image.
    """
    numbers = as_array(images, "image")
    if numbers.dtype.kind not in "US":
        return in_range(numbers, num_images, "image", name)
    # NumPy's own strings lose a NUL at their end.
    keys = images if isinstance(images, np.ndarray) else np.array(images, dtype=object)
    return index_of([str(key) for key in keys.reshape(-1)]).reshape(keys.shape)


def evenly_spaced(count: int, most: int) -> npt.NDArray[np.int64]:
    """(min(most, count),) int64 of 0..count-1, rising, evenly spaced, with both ends."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(np.int64)


def one_place(
    images: Any, num_images: int, views: Any, num_views: int
) -> tuple[int, int, tuple[int, ...]] | None:
    """Image, view and shape where one view is asked for by numbers that are in range, else None."""
    shape: tuple[int, ...] = ()
    if type(images) is not int:
        if not isinstance(images, _NUMBERS) or images.size != 1 or images.dtype.kind not in "iu":
            return None
        images, shape = images.item(), images.shape
    if type(views) is not int:
        if not isinstance(views, _NUMBERS) or views.size != 1 or views.dtype.kind not in "iu":
            return None
        shape = views.shape if views.ndim > len(shape) else shape
        views = views.item()
    if 0 <= images < num_images and 0 <= views < num_views:
        return images, views, shape
    return None
