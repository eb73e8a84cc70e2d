"""Photos decoded no finer than their views need: for JPEG files much larger than what is shown.

A JPEG decoder makes an image of a half, a quarter or an eighth of the size from the low
frequencies of its 8 x 8 blocks (ITU-T T.81), in less time than the whole one, and what is smaller
is resized sooner. The pixels of a view are then nearly, but not exactly, those that the teacher
saw, so a training loop must ask for it.

What pays for it: ``python -m benchmarks.decode``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from labelstore.images.decoding import decode, is_upright, upright_size
from labelstore.images.mixing.finish import finish_views
from labelstore.images.pixels import INTERPOLATIONS, check_cut, cut, render

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from PIL import Image

    from labelstore.images.mixing.blend import CutPartners
    from labelstore.images.resampling import Crops

__all__ = ["REDUCTIONS", "Photo", "decode_reduced", "reduction_for"]

REDUCTIONS = (8, 4, 2, 1)
"""By what a JPEG decoder can divide the sides of a photo."""


@dataclass(frozen=True)
class Photo:
    """An upright RGB photo, perhaps reduced."""

    image: Image.Image
    """Its pixels: ``width / reduction`` x ``height / reduction`` of them, rounded up."""
    width: int
    """Of the whole photo, in pixels."""
    height: int
    """Of the whole photo, in pixels."""
    reduction: int = 1
    """One of ``REDUCTIONS``."""

    @classmethod
    def whole(cls, image: Image.Image) -> Photo:
        """An image that was decoded whole."""
        return cls(image, image.width, image.height)

    def cut(
        self, box: Sequence[int], flip: bool, size: tuple[int, int], interpolation: str
    ) -> npt.NDArray[np.uint8]:
        """The pixels (height, width, 3) of one view, as ``labelstore.images.cut`` makes them.

        Args:
            box: top, left, height, width in pixels of the whole photo, inside it.
            flip, size, interpolation: as for ``labelstore.images.cut``.

        Raises:
            UsageError: the box leaves the photo or is empty, the size is not positive, or the
                filter is unknown.
        """
        if self.reduction == 1:
            return cut(self.image, box, flip, size, interpolation)
        check_cut((self.width, self.height), box, size, interpolation)
        # A reduced pixel is the mean of reduction x reduction whole ones, so places in pixels are
        # divided, and need not be whole numbers. Nothing outside the box's pixels is looked at.
        top, left, height, width = (side / self.reduction for side in box)
        inside = math.floor(top), math.floor(left)
        bottom = min(math.ceil(top + height), self.image.height)
        right = min(math.ceil(left + width), self.image.width)
        cropped = self.image.crop((inside[1], inside[0], right, bottom))
        top, left = top - inside[0], left - inside[1]
        resized = cropped.resize(
            (size[1], size[0]),
            INTERPOLATIONS[interpolation],
            box=(left, top, left + width, top + height),
        )
        pixels: npt.NDArray[np.uint8] = np.asarray(resized)
        return np.ascontiguousarray(pixels[:, ::-1] if flip else pixels)

    def render(
        self,
        views: Crops,
        size: tuple[int, int],
        interpolation: str,
        partners: CutPartners | None = None,
    ) -> npt.NDArray[np.uint8]:
        """The pixels (n, height, width, 3) of n views, as ``labelstore.images.render`` makes them.

        Args:
            views: their boxes in pixels of the whole photo, inside it.
            size, interpolation, partners: as for ``labelstore.images.render``.

        Raises:
            UsageError: as ``cut``.
        """
        if self.reduction == 1:
            return render(self.image, views, size, interpolation, None, partners)
        cuts = np.empty((len(views.box), *size, 3), dtype=np.uint8)
        for row, (box, flip) in enumerate(zip(views.box.tolist(), views.flip, strict=True)):
            cuts[row] = self.cut(box, bool(flip), size, interpolation)
        finish_views(cuts, views, interpolation, partners)
        return cuts


def reduction_for(boxes: npt.NDArray[np.int32], size: tuple[int, int]) -> int:
    """The largest reduction at which every box still has the pixels of its view: none is enlarged.

    Args:
        boxes: (n, 4) top, left, height, width in pixels of the whole photo; n at least 1.
        size: (height, width) of the views.
    """
    spare = min(boxes[:, 2].min() / size[0], boxes[:, 3].min() / size[1])
    return next((reduction for reduction in REDUCTIONS if reduction <= spare), 1)


def decode_reduced(data: bytes, name: str, reduction: int) -> Photo:
    """Decode an encoded image to an upright RGB photo; JPEG files to a part of their size.

    Args:
        data: the encoded file. What is no JPEG is decoded whole, and so is a photo that EXIF turns
            or mirrors and whose sides the reduction does not divide.
        name: what errors call the image.
        reduction: one of ``REDUCTIONS``.

    Raises:
        SourceError: as for ``labelstore.images.decode``.
    """
    sizes: list[tuple[int, int]] = []

    def reduce(image: Image.Image) -> None:
        width, height = image.size
        sizes.append(upright_size(image))
        # The last pixels may be less than whole ones; in a photo that is turned they come first.
        even = width % reduction == height % reduction == 0
        if reduction > 1 and image.format == "JPEG" and (even or is_upright(image)):
            image.draft(None, (max(width // reduction, 1), max(height // reduction, 1)))

    image = decode(data, name, reduce)
    width, height = sizes[0]
    if image.size == (width, height):
        return Photo.whole(image)
    if image.size != (-(-width // reduction), -(-height // reduction)):
        # Too small a photo to be reduced as it was asked for.
        return Photo.whole(decode(data, name))
    return Photo(image, width, height, reduction)
