"""Photos of a store that grows whose files it knows, compared with a source's."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from labelstore.errors import DecodeError
from labelstore.images.every_photo import every_photo
from labelstore.images.photo_file import is_same_file
from labelstore.store.indexing import evenly_spaced

if TYPE_CHECKING:
    import numpy.typing as npt

    from labelstore.images.sources.choose import ImageSource
    from labelstore.producer.progress import Progress
    from labelstore.store.store import Store

    Int64Array = npt.NDArray[np.int64]

__all__ = ["SAMPLED", "KnownPhotos"]

SAMPLED = 256
"""Photos whose files are compared for a plan."""


@dataclasses.dataclass(frozen=True)
class KnownPhotos:
    """Images of a store that a source has the photos of, and whose files the store knows."""

    images: Int64Array
    """(n,) positions in the store, rising."""
    places: Int64Array
    """(n,) in the source."""
    digests: npt.NDArray[np.uint64]
    """(n,) of the files that were labelled."""

    @classmethod
    def of(cls, store: Store, places: Int64Array) -> KnownPhotos:
        """All of them; ``places``: (N,) where each of the store's images is in the source, or
        -1."""
        digests = store.image_digests(np.arange(store.num_images))
        images = np.flatnonzero((places >= 0) & (digests != 0))
        return cls(images, places[images], digests[images])

    def sample(self) -> KnownPhotos:
        """Some, spread over all."""
        chosen = evenly_spaced(len(self.images), SAMPLED)
        return KnownPhotos(self.images[chosen], self.places[chosen], self.digests[chosen])

    def others(self, photos: ImageSource, workers: int, progress: Progress | None) -> Int64Array:
        """Positions of those whose photos are other files now, rising."""

        def is_other(number: int) -> bool:
            try:
                data = photos.read(int(self.places[number]))
            except DecodeError:  # a table has no bytes for it
                return True
            return not is_same_file(data, int(self.digests[number]))

        other = []
        for number, is_changed in every_photo(range(len(self.images)), is_other, workers):
            if is_changed:
                other.append(number)
            if progress is not None:
                progress.update(1, 1)
        return self.images[other]
