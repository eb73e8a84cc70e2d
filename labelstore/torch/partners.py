"""Where a data set finds the photos that views of others are mixed with."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from labelstore.errors import MismatchError, UsageError
from labelstore.images.mixing.partners import PartnerPhotos
from labelstore.store.mixed_views import is_mixed, partner_views

if TYPE_CHECKING:
    from PIL import Image

    from labelstore.store.label_reader import LabelReader
    from labelstore.torch.photos import Photos

__all__ = ["partner_photos"]

_KEPT_BYTES = 32 << 20
"""Pixels of partners' photos that each of DataLoader's workers keeps."""


def partner_photos(store: LabelReader, photos: Photos | None) -> PartnerPhotos | None:
    """What cuts the views that others are mixed with; None where none are.

    Args:
        store: whose views they are. photos: all of its photos; None where they come one by one.

    Raises:
        UsageError: views are mixed, and photos come one by one. MismatchError: a labelled image has
            no photo.
    """
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
