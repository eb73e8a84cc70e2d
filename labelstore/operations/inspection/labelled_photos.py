"""The photos that a store's labels belong to, read from a source and compared with the store."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from labelstore.errors import MismatchError, SourceError
from labelstore.images.decoding import decode
from labelstore.images.mixing.partners import PartnerPhotos
from labelstore.images.photo_file import is_same_file, is_same_size
from labelstore.images.sources.classes import other_form
from labelstore.pictures.thumbnails import crop_thumbnail
from labelstore.store.mixed_views import partner_views

if TYPE_CHECKING:
    from PIL import Image

    from labelstore.images.sources.choose import ImageSource
    from labelstore.store.label_reader import LabelReader

__all__ = ["LabelledPhotos"]


class LabelledPhotos:
    """Photos of a store's images, found in a source by key.

    A photo is given only where it is the one that was labelled: its file has the digest, and its
    pixels the size, that the store has, as far as the store has them.

    Raises:
        MismatchError: the source has no photo of any labelled image.
    """

    def __init__(self, store: LabelReader, source: ImageSource) -> None:
        self._store, self._source = store, source
        self._rows = {key: row for row, key in enumerate(source.keys)}
        self.missing: set[int] = set()
        """Images without a photo in the source, of those that were asked for."""
        self.different: set[int] = set()
        """Images whose photo is not the one that was labelled."""
        self.unreadable: set[int] = set()
        """Images whose photo cannot be read or decoded."""
        labelled = np.flatnonzero(store.labelled())
        keys = store.keys
        if labelled.size and not any(keys[image] in self._rows for image in labelled):
            key = keys[labelled[0]]
            raise MismatchError(
                f"{source.path} has none of the {labelled.size} labelled images of {store.path}, "
                f"first {key!r} (a key there is {source.keys[0]!r}"
                f"{other_form(key, source.keys)}): give the source that the store was made from."
            )

    @property
    def path(self) -> str:
        """Where the photos lie."""
        return str(self._source.path)

    def read(self, image: int) -> Image.Image | None:
        """The photo of an image, upright and RGB; None, and why is kept, where it cannot be given.

        Args:
            image: its number in the store.
        """
        row = self._rows.get(self._store.keys[image])
        if row is None:
            self.missing.add(image)
            return None
        try:
            data = self._source.read(row)
            if not is_same_file(data, int(self._store.image_digests(image))):
                self.different.add(image)
                return None
            photo = decode(data, str(self._source.path_of(row)))
        except SourceError:
            self.unreadable.add(image)
            return None
        width, height = self._store.sizes(image)
        if not is_same_size(photo.size, (int(width), int(height))):
            self.different.add(image)
            return None
        return photo

    def crop_picture(self, photo: Image.Image, image: int, view: int) -> str | None:
        """A view of an image's photo as a thumbnail; None where it is mixed with one of a photo
        that cannot be given."""
        try:
            return crop_thumbnail(photo, self._store.views(image, [view]), self._partners)
        except SourceError:
            return None

    @functools.cached_property
    def _partners(self) -> PartnerPhotos:
        return PartnerPhotos(self._partner, functools.partial(partner_views, self._store))

    def _partner(self, image: int) -> Image.Image:
        photo = self.read(image)
        if photo is None:
            raise SourceError(f"the photo {self._store.keys[image]!r} cannot be given.")
        return photo
