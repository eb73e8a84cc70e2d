"""Which labels of a grown store are taken over and which are made: a pure function of tables."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Int64Array = npt.NDArray[np.int64]
    BoolArray = npt.NDArray[np.bool_]

__all__ = ["GrowthPlan", "places_of", "plan_growth"]


@dataclasses.dataclass(frozen=True)
class GrowthPlan:
    """What a grown store has of the old one, and what its teacher is to make."""

    keys: tuple[str, ...]
    """Of all N images: the old store's in its order, then the new ones in the source's."""
    places: Int64Array
    """(N,) where each image is in the source, -1 where it is missing."""
    first_views: Int64Array
    """(N,) the first view of each image that is to be labelled; ``num_views`` where none is. What
    comes before it is the old store's; 0 for an image of which nothing is taken over."""
    old_images: int
    old_views: int
    num_views: int
    """Of each image of the grown store."""
    relabelled: Int64Array
    """Positions of the old store's images of which nothing is taken over, rising."""

    @property
    def added(self) -> int:
        """Images that the old store lacks."""
        return len(self.keys) - self.old_images

    @property
    def missing(self) -> Int64Array:
        """(n,) positions of the old store's images that the source lacks, rising."""
        return np.flatnonzero(self.places < 0)

    @property
    def views(self) -> int:
        """Views that are to be labelled, of all images."""
        return int((self.num_views - self.first_views).sum())

    @property
    def unmakeable(self) -> Int64Array:
        """(n,) positions of images that the source lacks and that want views, rising."""
        return np.flatnonzero((self.places < 0) & (self.first_views < self.num_views))


def places_of(keys: Sequence[str], source_keys: Sequence[str]) -> Int64Array:
    """(len(keys),) int64: where each key is among a source's, -1 where it is not."""
    places = {key: place for place, key in enumerate(source_keys)}
    return np.array([places.get(key, -1) for key in keys], dtype=np.int64)


def plan_growth(
    old_keys: Sequence[str],
    labelled: BoolArray,
    old_views: int,
    source_keys: Sequence[str],
    num_views: int,
    relabelled: Int64Array,
    places: Int64Array | None = None,
) -> GrowthPlan:
    """What is taken over and what is made.

    Args:
        old_keys: of the old store's n images. labelled: (n,) whether each has labels: one that
            could not be decoded stays without.
        old_views: of each of them.
        source_keys: of the photos that there are.
        num_views: of each image of the grown store, ``old_views`` or more.
        relabelled: positions of old images of which nothing is to be taken over.
        places: ``places_of(old_keys, source_keys)``, where that is at hand.
    """
    if places is None:
        places = places_of(old_keys, source_keys)
    is_new = np.ones(len(source_keys), dtype=bool)
    is_new[places[places >= 0]] = False
    added = np.flatnonzero(is_new)
    first = np.where(labelled, old_views, num_views)
    first[relabelled] = 0
    return GrowthPlan(
        keys=(*old_keys, *(source_keys[place] for place in added.tolist())),
        places=np.concatenate([places, added]),
        first_views=np.concatenate([first, np.zeros(len(added))]).astype(np.int64),
        old_images=len(old_keys),
        old_views=old_views,
        num_views=num_views,
        relabelled=relabelled,
    )
