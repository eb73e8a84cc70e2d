"""Whom a mixed view is mixed with: an image of a list, and a view of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from labelstore.views.philox import bounded

if TYPE_CHECKING:
    import numpy.typing as npt

    Int64Array = npt.NDArray[np.int64]

__all__ = ["PartnerList", "Partners"]


@dataclass(frozen=True)
class Partners:
    """What views are mixed with."""

    image: Int64Array
    """(...) int64: position of the partner among the store's images; -1 where nothing is mixed."""
    view: Int64Array
    """(...) int64: the number of the partner's view, 0..65535, which need not be a stored one: its
    crop and all stages but the mixing. 0 where nothing is mixed."""

    def __getitem__(self, rows: Any) -> Partners:
        """Those of some of the views."""
        return Partners(self.image[rows], self.view[rows])

    def reshape(self, shape: tuple[int, ...]) -> Partners:
        """Those of views in another shape."""
        return Partners(self.image.reshape(shape), self.view.reshape(shape))


class PartnerList:
    """Images that others may be mixed with: the first of a store, chosen among by rank of hash.

    The rank does not depend on the images' order, so two stores of the same images in other orders
    have the same mixed views.
    """

    def __init__(self, key_hashes: npt.NDArray[np.uint64]) -> None:
        """Of images by the hashes of their keys, in the store's order; at least two."""
        self._positions = np.argsort(key_hashes, kind="stable").astype(np.int64)
        self._hashes = key_hashes[self._positions]

    def __len__(self) -> int:
        return len(self._hashes)

    @property
    def digest(self) -> str:
        """xxh3_128, 32 hexadecimal digits, of the hashes, rising, as uint64 little-endian."""
        return str(xxhash.xxh3_128_hexdigest(self._hashes.astype("<u8").tobytes()))

    def positions(
        self, hashes: npt.NDArray[np.uint64], words: npt.NDArray[np.uint32]
    ) -> Int64Array:
        """(n,) int64: an image of the list for each word, all others than the image itself alike.

        Args:
            hashes: (n,) of the images that get a partner, in the list or not.
            words: (n,) uniform random words.
        """
        own = np.minimum(np.searchsorted(self._hashes, hashes), len(self) - 1)
        listed = self._hashes[own] == hashes
        rank = bounded(words, len(self) - listed.astype(np.int64))
        return np.asarray(self._positions[rank + (listed & (rank >= own))])
