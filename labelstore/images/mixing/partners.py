"""Partners' photos: decoded where a mixed view asks for them, the last few kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.images.pixels import render

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from PIL.Image import Image

    from labelstore.images.resampling import Crops

    Int64Array = npt.NDArray[np.int64]
    Photo = Image | npt.NDArray[np.uint8]

__all__ = ["KEPT_BYTES", "PartnerPhotos"]

KEPT_BYTES = 128 << 20
"""Pixels of partners' photos that are kept: a partner serves a run of views, which may be cut in
several goes; of a large data set none is met again soon after."""


class PartnerPhotos:
    """Cuts views of partners, from several threads; of what several want at once one is decoded.

    Args:
        photo_of: the upright RGB photo of an image by position, or its pixels (H, W, 3) uint8. What
            it raises reaches every view that needs the photo.
        views_of: what views of an image are without their mixing: its position, the views' numbers,
            and the photo's width and height.
    """

    def __init__(
        self,
        photo_of: Callable[[int], Photo],
        views_of: Callable[[int, Int64Array, int, int], Crops],
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._photo_of, self._views_of, self._room = photo_of, views_of, kept_bytes
        self._kept: OrderedDict[int, Future[Photo]] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Without what is kept: DataLoader's workers begin with nothing."""
        return PartnerPhotos, (self._photo_of, self._views_of, self._room)

    def __call__(
        self, image: int, views: Int64Array, size: tuple[int, int], interpolation: str
    ) -> npt.NDArray[np.uint8]:
        """(n, height, width, 3) uint8 pixels of n views of an image, without their mixing."""
        photo = self._photo(image)
        width, height = _extent(photo)
        return render(photo, self._views_of(image, views, width, height), size, interpolation)

    def _photo(self, image: int) -> Photo:
        with self._lock:
            future = self._kept.get(image)
            mine = future is None
            if future is None:
                future = self._kept[image] = Future()
            self._kept.move_to_end(image)
        if mine:
            try:
                photo = self._photo_of(image)
            except BaseException as error:
                with self._lock:
                    self._kept.pop(image, None)
                future.set_exception(error)
                raise
            future.set_result(photo)
            self._make_room(photo)
        return future.result()

    def _make_room(self, photo: Photo) -> None:
        with self._lock:
            self._held += _bytes_of(photo)
            for image in list(self._kept):
                if self._held <= self._room or len(self._kept) == 1:
                    return
                if self._kept[image].done():
                    self._held -= _bytes_of(self._kept.pop(image).result())


def _extent(photo: Photo) -> tuple[int, int]:
    """(width, height)."""
    if isinstance(photo, np.ndarray):
        return photo.shape[1], photo.shape[0]
    return photo.size


def _bytes_of(photo: Photo) -> int:
    width, height = _extent(photo)
    return 3 * width * height
