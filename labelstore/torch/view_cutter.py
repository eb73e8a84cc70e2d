"""Views cut from their photos, whose pixels are compared with those that the teacher saw."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import PIL

from labelstore.errors import MismatchError, ReplayWarning, UsageError
from labelstore.images.mixing.partners import PartnerPhotos
from labelstore.images.pixels import pixel_digest
from labelstore.store.mixed_views import is_mixed, partner_views
from labelstore.torch.identity import SAME_FILES

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

    from labelstore.images.reduced_jpeg import Photo
    from labelstore.store.label_reader import LabelReader
    from labelstore.torch.photos import Photos
    from labelstore.views.law import Views

__all__ = ["PixelProbe", "ViewCutter"]

_KEPT_BYTES = 32 << 20
"""Pixels of partners' photos that each of DataLoader's workers keeps."""


class ViewCutter:
    """Cuts the views of a store's photos."""

    def __init__(self, store: LabelReader, photos: Photos | None) -> None:
        """Of a store.

        Args:
            store: whose views they are. photos: all of its photos; None where they come one by one.

        Raises:
            UsageError: views are mixed, and photos come one by one. MismatchError: a labelled image
                has no photo.
        """
        self._store = store
        self._partners = _partner_photos(store, photos)

    def cut(
        self, photo: Photo, image: int, views: Views, size: tuple[int, int], interpolation: str
    ) -> npt.NDArray[np.uint8]:
        """(m, height, width, 3) uint8 pixels of views of a photo.

        Args:
            photo: that of the image; image: its number in the store.
            views: m views of it. size: (height, width). interpolation: a filter's name.

        Raises:
            MismatchError: a view reaches outside the photo.
        """
        for box in views.box:
            self._check_inside(photo, box, image)
        return photo.render(views, size, interpolation, self._partners)

    def _check_inside(self, photo: Photo, box: npt.NDArray[np.int32], image: int) -> None:
        top, left, height, width = box.tolist()
        # Only explicit boxes can reach outside; Pillow would fill them with black.
        if min(top, left) < 0 or top + height > photo.height or left + width > photo.width:
            raise MismatchError(
                f"a view of {self._store.keys[image]!r} (top, left, height, width {box.tolist()}) "
                f"reaches outside its photo of {photo.width} x {photo.height} pixels: {SAME_FILES}."
            )


class PixelProbe:
    """Compares views with what the teacher saw, by the digests that the producer kept of a few."""

    def __init__(self, store: LabelReader, cutter: ViewCutter) -> None:
        """Of a store whose views ``cutter`` cuts."""
        self._store, self._cutter = store, cutter

    def images(self) -> set[int]:
        """The images with labels of which the producer kept digests of views.

        One that was probed may have none: the teacher had no finite logits for it, or a photo that
        its views are mixed with could not be decoded.
        """
        manifest = self._store.manifest
        if not manifest.probe or not manifest.teachers:
            return set()
        images = self._store.index_of([entry["key"] for entry in manifest.probe])
        return set(images[self._store.labelled()[images]].tolist())

    def differing(self, photo: Photo, image: int) -> tuple[int, int]:
        """Of how many views of a photo the pixels differ from what the teacher saw, and of how many
        the producer kept a digest.

        Args:
            photo: decoded whole. image: its number in the store, one of ``images``.
        """
        manifest = self._store.manifest
        height, width = manifest.teachers[0]["input_size"]
        filter_name = str(manifest.teachers[0]["interpolation"])
        entries = [entry for entry in manifest.probe if entry["key"] == self._store.keys[image]]
        numbers = np.array([entry["view"] for entry in entries], dtype=np.int64)
        views = self._store.views(image, numbers)
        cuts = self._cutter.cut(photo, image, views, (height, width), filter_name)
        differing = sum(
            pixel_digest(cut) != entry["digest"] for cut, entry in zip(cuts, entries, strict=True)
        )
        return differing, len(entries)

    def tell(self, differing: int, count: int, strict: bool, stacklevel: int = 2) -> None:
        """Warn (ReplayWarning), or raise (MismatchError), when any of the probed views differ.

        Args:
            differing, count: sums of what ``differing`` says. strict: raise.
            stacklevel: of the warning, as ``warnings.warn`` takes it, seen from who calls this.
        """
        if not differing:
            return
        message = (
            f"{differing} of {count} probed views of {self._store.path} have other "
            f"pixels here than the teacher saw (its producer had Pillow "
            f"{self._store.manifest.producer.get('Pillow', 'unknown')}, here is {PIL.__version__}):"
            " use the same photos and that Pillow, or check_pixels=False to train all the same."
        )
        if strict:
            raise MismatchError(message)
        warnings.warn(message, ReplayWarning, stacklevel=stacklevel + 1)


def _partner_photos(store: LabelReader, photos: Photos | None) -> PartnerPhotos | None:
    """What cuts the views that others are mixed with; None where none are."""
    if not is_mixed(store):
        return None
    if photos is None:
        raise UsageError(
            f"the views of {store.path} are mixed with those of other photos, and a stream brings "
            "each photo alone: give partners=, all photos by key (labelstore.open_source), or "
            "train by a SoftLabelDataset of a data set."
        )
    present = photos.present()
    lacking = store.labelled() & ~present if present is not None else np.zeros(0, dtype=bool)
    if lacking.any():
        raise MismatchError(
            f"the data set lacks {int(lacking.sum())} labelled images of {store.path} (first "
            f"{store.keys[int(np.argmax(lacking))]!r}), with which views of others are mixed: give "
            "all photos, if only as partners=."
        )
    return PartnerPhotos(partial(_whole, photos), partial(partner_views, store), _KEPT_BYTES)


def _whole(photos: Photos, image: int) -> Image.Image:
    """The photo of an image."""
    return photos.read(image).image
