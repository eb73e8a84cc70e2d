"""Photos in memory, with what is to be known of their files; and those that views are mixed with.

A photo is decoded once for all its views and all teachers.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from labelstore.errors import DecodeError, SourceError
from labelstore.images.photo_file import read_photo
from labelstore.images.resampling import pixels_of
from labelstore.producer.crops.partners import over_images
from labelstore.views.law import Views
from labelstore.views.philox import hash_keys

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL.Image import Image

    from labelstore.images.sources.choose import ImageSource
    from labelstore.producer.crops.runs import CropRun
    from labelstore.views.law import ViewLaw

    Photo = Image | npt.NDArray[np.uint8]

__all__ = ["LoadedPhoto", "NoPartnerError", "PartnerFile", "PhotoFacts", "PhotoLoader"]


@dataclass(frozen=True)
class PhotoFacts:
    """What is kept of a photo, or why its bytes are none."""

    width: int
    height: int
    digest: int
    error: str | None
    """Why the image gets no labels: its bytes are no photo, or those of a partner are none."""


class PartnerFile(NamedTuple):
    """The file of a photo that views are to be mixed with."""

    digest: int
    decodable: bool
    """Whether it is a photo; else no view is mixed with it, and those that were to be have no
    labels."""


class NoPartnerError(DecodeError):
    """A photo that views are mixed with cannot be decoded."""


_NO_VIEWS = Views(np.empty((0, 4), dtype=np.int32), np.empty(0, dtype=np.bool_))


@dataclass(frozen=True)
class LoadedPhoto:
    """A photo in memory, and all of its views."""

    facts: PhotoFacts
    photo: Photo | None = None
    """Upright RGB, or its pixels (H, W, 3); None where its bytes are none."""
    views: Views = _NO_VIEWS

    def crops(self, run: CropRun) -> Views:
        """The views of a run; the law is asked once a photo."""
        return self.views[run.views.start : run.views.stop]


class PhotoLoader:
    """Decodes a source's photos; several threads may ask at once.

    Args:
        source: the images. law: of the views.
        as_array: whether a photo is taken out of Pillow once, as its pixels.

    Attributes:
        partners: cuts the views that others are mixed with; None where the law mixes none.
    """

    def __init__(self, source: ImageSource, law: ViewLaw, *, as_array: bool) -> None:
        self._source, self._as_array = source, as_array
        self._hashes = hash_keys(source.keys)
        self._law, self.partners = over_images(law, source.keys, self._partner, self._hashes)
        # Where views are mixed, digests of files as they were read first; 0 before.
        count = 0 if law.mixing is None else len(source)
        self._digests = np.zeros(count, dtype=np.uint64)
        self._mixed: deque[tuple[int, PartnerFile]] = deque()

    def load(self, image: int, num_views: int) -> LoadedPhoto:
        """A photo, and so many of its views.

        Raises:
            SourceError: it could not be read, or is another file than when it was read first and
                views are mixed with it.
        """
        try:
            file = read_photo(self._source, image)
        except SourceError as error:
            raise SourceError(
                f"{error} It is not left out, for its bytes may be right; what was committed is "
                "kept, and the same command goes on."
            ) from error
        self._require_same(image, file.digest)
        photo = file.photo
        if photo is None:
            return LoadedPhoto(PhotoFacts(-1, -1, file.digest, str(file.error)))
        return LoadedPhoto(
            PhotoFacts(photo.width, photo.height, file.digest, None),
            self._pixels(photo),
            self._law(self._hashes[image], np.arange(num_views), photo.width, photo.height),
        )

    def mixed_files(self) -> dict[int, PartnerFile]:
        """By position, the photos that views were mixed with and that were read since this was
        asked last."""
        files = {}
        while self._mixed:
            image, file = self._mixed.popleft()
            files[image] = file
        return files

    def _pixels(self, photo: Image) -> Photo:
        return pixels_of(photo) if self._as_array else photo

    def _partner(self, image: int) -> Photo:
        """The photo of an image that views of others are mixed with."""
        file = read_photo(self._source, image)
        self._require_same(image, file.digest)
        self._mixed.append((image, PartnerFile(file.digest, file.photo is not None)))
        if file.photo is None:
            raise NoPartnerError(str(file.error))
        return self._pixels(file.photo)

    def _require_same(self, image: int, digest: int) -> None:
        """Refuse a photo whose file has changed since a view was mixed with it, or it was cut."""
        if self._law.mixing is None:
            return
        first = int(self._digests[image])
        self._digests[image] = first or digest
        if first not in (0, digest):
            raise SourceError(
                f"the photo {self._source.keys[image]!r} has become another file while views of "
                "others were mixed with it: let nothing write to the photos, and make the store "
                "anew."
            )
