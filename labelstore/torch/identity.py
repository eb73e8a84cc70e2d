"""Whether a photo is the one that was labelled: by the digest of its file, or by its size.

The store keeps xxh3_64 of every encoded file. It is compared where encoded bytes, or the path of a
file, are at hand. Of decoded photos (tensors, images without a file) nothing but the size can be.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, get_args

import torch

from labelstore.errors import MismatchError, SourceError, require_choice
from labelstore.images.photo_file import is_same_file, is_same_size
from labelstore.images.pixels import content_digest
from labelstore.images.sources.folder import read_image

if TYPE_CHECKING:
    from labelstore.images.reduced_jpeg import Photo
    from labelstore.store.label_reader import LabelReader

__all__ = ["SAME_FILES", "CheckPhotos", "PhotoIdentity"]

CheckPhotos = Literal["digest", "size", "none"]
"""What is compared of a photo with the one that was labelled: digest and size, size, nothing."""

SAME_FILES = "give the data set the teacher's own files, without a transform that resizes or crops"
"""What mends photos that are not those that were labelled."""


class PhotoIdentity:
    """Compares photos with those that a store's labels belong to.

    Which files were compared is kept in shared memory, so that each is read for its digest once by
    all of DataLoader's workers together, and not once an epoch.
    """

    def __init__(self, store: LabelReader, check: CheckPhotos) -> None:
        """Of a store's photos; UsageError for another ``check``."""
        require_choice("check_photos", check, get_args(CheckPhotos))
        self._store, self._check = store, check
        count = store.num_images if check == "digest" else 0
        self._compared = torch.zeros(count, dtype=torch.bool).share_memory_()  # type: ignore[no-untyped-call]

    def check(
        self,
        photo: Photo,
        image: int,
        *,
        data: bytes | None = None,
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        """MismatchError unless a photo is that of an image.

        Args:
            photo: as it was decoded.
            image: its number in the store.
            data: its encoded file, where it is at hand.
            path: of its file, where that is known. It is read the first time that the image is
                met; one that is no file that can be read (a place in an archive, say) is passed
                over.

        What the store does not know of the image passes.
        """
        if self._check == "none":
            return
        self._check_size(photo, image)
        if self._check == "digest":
            if data is not None:
                self._check_bytes(data, image)
            elif path is not None and not self._compared[image]:
                self._check_file(path, image)

    def _check_bytes(self, data: bytes, image: int) -> None:
        expected = int(self._store.image_digests(image))
        if not is_same_file(data, expected):
            raise MismatchError(
                f"the photo {self._store.keys[image]!r} is another file than the one that was "
                f"labelled (digest {content_digest(data):016x}, expected {expected:016x}): give "
                'the data set the teacher\'s own files, or check_photos="size" to train on any '
                "photo of its size."
            )

    def _check_file(self, path: str | os.PathLike[str], image: int) -> None:
        try:
            data = read_image(os.fspath(path))
        except SourceError as error:
            if isinstance(error.__cause__, OSError):
                return
            raise
        self._check_bytes(data, image)
        self._compared[image] = True

    def _check_size(self, photo: Photo, image: int) -> None:
        width, height = (int(side) for side in self._store.sizes(image))
        if is_same_size((photo.width, photo.height), (width, height)):
            return
        mend = SAME_FILES
        if (photo.height, photo.width) == (width, height):
            mend = (
                "its sides are exchanged, as of a photo that EXIF turns and whose pixels were not "
                "turned; turn it upright (PIL.ImageOps.exif_transpose) before it becomes a tensor"
            )
        raise MismatchError(
            f"the photo {self._store.keys[image]!r} is {photo.width} x {photo.height} pixels "
            f"and {width} x {height} was labelled: {mend}."
        )
