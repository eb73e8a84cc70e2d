"""Photos and crops as small JPEG files inside a page, within a number of bytes."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from PIL import Image

from labelstore.images.pixels import render

if TYPE_CHECKING:
    from labelstore.images.mixing.blend import CutPartners
    from labelstore.images.resampling import Crops

__all__ = ["CROP_SIDE", "PHOTO_SIDE", "Budget", "crop_thumbnail", "photo_thumbnail"]

PHOTO_SIDE = 256
"""Pixels of a photo's longer side, at most."""

CROP_SIDE = 112
"""Pixels of a crop's sides."""

_QUALITY = 72


class Budget:
    """How many bytes the pictures of a page may take, as they stand in it (base64)."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.used_up = False
        """Whether a picture did not fit. From then on none does: what comes first is shown."""

    def take(self, picture: str) -> str | None:
        """The picture, or None where it does not fit."""
        self.used_up |= self.used_bytes + len(picture) > self.limit_bytes
        if self.used_up:
            return None
        self.used_bytes += len(picture)
        return picture


def photo_thumbnail(photo: Image.Image) -> str:
    """A photo (upright, RGB), reduced to ``PHOTO_SIDE``, as a data URI."""
    small = photo.copy()
    small.thumbnail((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS)
    return _data_uri(small)


def crop_thumbnail(photo: Image.Image, view: Crops, partners: CutPartners | None = None) -> str:
    """A view of a photo (upright, RGB), as square as a teacher sees it, as a data URI.

    Args:
        photo: upright, RGB.
        view: one view. partners: as for ``labelstore.images.render``.

    Raises:
        UsageError: its box leaves the photo.
    """
    pixels = render(photo, view, (CROP_SIDE, CROP_SIDE), "bilinear", partners=partners)
    return _data_uri(Image.fromarray(pixels[0]))


def _data_uri(picture: Image.Image) -> str:
    # A comment that the photo came with would be written along.
    picture.info = {}
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
