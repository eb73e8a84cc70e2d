"""A law over a store's images, and the views that its views are mixed with. No torch is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labelstore.images.mixing.partners import PartnerPhotos
from labelstore.views.philox import hash_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

    from labelstore.views.law import ViewLaw

__all__ = ["over_images"]


def over_images(
    law: ViewLaw,
    keys: Sequence[str],
    photo_of: Callable[[int], Image | npt.NDArray[np.uint8]],
    hashes: npt.NDArray[np.uint64] | None = None,
) -> tuple[ViewLaw, PartnerPhotos | None]:
    """A law over a store's images, and what cuts the views that its views are mixed with.

    Args:
        keys: of all images, in order. photo_of: the photo of an image by position, as
            ``PartnerPhotos`` has it. hashes: (N,) of the keys, where they are at hand.

    Returns:
        the law, and None where it mixes no views.

    Raises:
        MismatchError: images are missing with which views are mixed.
    """
    if law.mixing is None:
        return law, None
    known = hash_keys(keys) if hashes is None else hashes
    unmixed = law.unmixed
    partners = PartnerPhotos(photo_of, lambda image, *rest: unmixed(known[image], *rest))
    return law.among(known), partners
