"""All that is done to views once they are cut, resized and mirrored: stages, mixing included."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labelstore.images.mixing.blend import blend_views
from labelstore.images.stages import apply_stages

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from labelstore.images.mixing.blend import CutPartners
    from labelstore.images.resampling import Crops

__all__ = ["finish_views"]


def finish_views(
    pixels: npt.NDArray[np.uint8],
    views: Crops,
    interpolation: str,
    cut_partners: CutPartners | None = None,
) -> None:
    """Do to views, in place, all that their stages do, mixing included.

    Args:
        pixels: (n, height, width, 3) uint8 of n views, cropped, resized and mirrored.
        views: the same n views.
        interpolation, cut_partners: for views that are mixed, how those of their partners are
            resized, and what makes them: see ``labelstore.images.mixing.blend.blend_views``.

    Raises:
        UsageError: there are mixed views, and nothing that makes partners' pixels.
    """
    if views.partners is None:
        apply_stages(pixels, views.stages)
        return
    if views.stages[:-1]:
        apply_stages(pixels, views.stages[:-1])
    blend_views(pixels, views.stages[-1], views.partners, cut_partners, interpolation)
