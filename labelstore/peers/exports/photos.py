"""The photos of a store that is exported: each is the one that was labelled, or an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labelstore.errors import MismatchError
from labelstore.images.photo_file import is_same_file
from labelstore.images.sources.classes import other_form

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from labelstore.images.sources.choose import ImageSource
    from labelstore.store.store import Store

__all__ = ["PhotosOf"]


class PhotosOf:
    """Photos of a store's images, found in a source by key."""

    def __init__(self, store: Store, source: ImageSource) -> None:
        self._store, self._source = store, source
        self._rows = {key: row for row, key in enumerate(source.keys)}

    def require(self, images: npt.NDArray[np.int64]) -> None:
        """MismatchError where the source has no photo of one of these images."""
        for image in images.tolist():
            self._row(image)

    def read(self, image: int) -> bytes:
        """The encoded photo of an image, by its number in the store.

        Raises:
            MismatchError: it is not there, or is not the one that was labelled. SourceError: it
                cannot be read.
        """
        data = self._source.read(self._row(image))
        if not is_same_file(data, int(self._store.image_digests(image))):
            raise MismatchError(
                f"the photo {self._store.keys[image]!r} of {self._source.path} is another file "
                f"than the one that {self._store.path} was made from: give the photos that were "
                "labelled (labelstore doctor finds those that differ)."
            )
        return data

    def _row(self, image: int) -> int:
        key = self._store.keys[image]
        row = self._rows.get(key)
        if row is None:
            raise MismatchError(
                f"{self._source.path} has no photo {key!r} of {self._store.path} (a key there is "
                f"{self._source.keys[0]!r}{other_form(key, self._source.keys)}): give the source "
                "that the store was made from, or leave that image out."
            )
        return row
