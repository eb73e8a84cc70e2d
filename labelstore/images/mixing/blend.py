"""The pixels of mixed views: MixUp and CutMix of 8-bit pixels, by integers alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import numpy as np

from labelstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from labelstore.images.stages import StageOf

    Pixels = npt.NDArray[np.uint8]
    Int64Array = npt.NDArray[np.int64]
    CutPartners = Callable[[int, Int64Array, tuple[int, int], str], Pixels]

__all__ = ["MIXING", "CutPartners", "PartnersOf", "blend_views", "cutmix_box"]

STEPS = 1 << 16
"""A share is a whole number of these steps of 1."""


class PartnersOf(Protocol):
    """What n views are mixed with: ``labelstore.views`` tells it."""

    @property
    def image(self) -> Int64Array:
        """(n,): position of the partner among a store's images; -1 where nothing is mixed."""

    @property
    def view(self) -> Int64Array:
        """(n,): the number of its view."""


def cutmix_box(values: npt.NDArray[np.float64], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The partner's rectangle: top, left, bottom, right in pixels, inside a view; it may be empty.

    As torchvision's CutMix has it: each side is sqrt(1 - share) of the view's, around a centre.

    Args:
        values: the share, and the centre as shares of height and width.
        size: (height, width) of the view.
    """
    half = 0.5 * math.sqrt(1.0 - float(values[0]))
    (top, bottom), (left, right) = (
        (max(middle - reach, 0), min(middle + reach, side))
        for side, place in zip(size, values[1:3], strict=True)
        for middle, reach in [(int(float(place) * side), int(half * side))]
    )
    return top, left, bottom, right


def _mixup(view: Pixels, partner: Pixels, values: npt.NDArray[np.float64]) -> None:
    """share * view + (1 - share) * partner, rounded to the nearest, halves up."""
    share = round(float(values[0]) * STEPS)
    mixed = view.astype(np.uint32)
    mixed *= np.uint32(share)
    other = partner.astype(np.uint32)
    other *= np.uint32(STEPS - share)
    mixed += other
    mixed += np.uint32(STEPS // 2)
    mixed >>= np.uint32(16)
    view[...] = mixed


def _cutmix(view: Pixels, partner: Pixels, values: npt.NDArray[np.float64]) -> None:
    """The partner's pixels in a rectangle."""
    top, left, bottom, right = cutmix_box(values, view.shape[:2])
    view[top:bottom, left:right] = partner[top:bottom, left:right]


MIXING: dict[str, Callable[[Pixels, Pixels, npt.NDArray[np.float64]], None]] = {
    "mixup": _mixup,
    "cutmix": _cutmix,
}
"""Name of an operation -> what it does to a view, in place, with a partner's and its values."""


def blend_views(
    pixels: Pixels,
    stage: StageOf,
    partners: PartnersOf,
    cut_partners: CutPartners | None,
    interpolation: str,
) -> None:
    """Mix views, in place, with those of their partners.

    Args:
        pixels: (n, height, width, 3) uint8 of n views, with all that other stages do.
        stage: what is done to them, and ``partners``: with which views.
        cut_partners: makes the pixels (m, height, width, 3) of m views of an image: its position,
            the views' numbers, the size and the interpolation.

    Raises:
        UsageError: there are mixed views, and nothing that makes partners' pixels.
    """
    rows = np.flatnonzero(partners.image >= 0)
    if not rows.size:
        return
    if cut_partners is None:
        raise UsageError(
            "a view is mixed with one of another photo and nothing gives that photo: say where "
            "partners' photos are (render takes partners=)."
        )
    size = pixels.shape[1], pixels.shape[2]
    for image in np.unique(partners.image[rows]).tolist():
        own = rows[partners.image[rows] == image]
        others = cut_partners(image, partners.view[own], size, interpolation)
        for row, other in zip(own.tolist(), others, strict=True):
            operation = stage.names[stage.operation[row, 0]]
            MIXING[operation](pixels[row], other, stage.values[row, 0])
