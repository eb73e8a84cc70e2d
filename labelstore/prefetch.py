"""Reading ahead: the slabs of the epoch that trains, and of the one that comes next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labelstore.ensembles import Ensemble
from labelstore.schedule import groups_of_epoch
from labelstore.slabs import SLAB_BYTES

if TYPE_CHECKING:
    from labelstore.epochs import EpochOrder
    from labelstore.store import Store

__all__ = ["Prefetcher"]

_LEAST_SHARE = 8
"""Epochs that show less than one in so many images read single chunks."""


class Prefetcher:
    """Has an epoch's labels in memory when it begins: for all processes of the machine at once.

    It does nothing for a curriculum, whose views lie all over the store, for an order of few of the
    store's images, and for a materialized copy. Make it before the store is handed to workers.
    """

    def __init__(self, order: EpochOrder, slab_bytes: int = SLAB_BYTES) -> None:
        """Plan for an order of epochs.

        Args:
            order: says which views an epoch shows.
            slab_bytes: of the slabs of this store on this machine together, at most (of an
                ensemble: of all members'); 0 to read chunk by chunk.
        """
        store = order.store
        self._order = order
        self._members: tuple[Store, ...]
        self._members = store.members if isinstance(store, Ensemble) else (store,)
        few = len(order.images) * _LEAST_SHARE < store.num_images
        self.slab_bytes = 0 if few or order.epochs is not None else slab_bytes
        for member in self._members if self.slab_bytes else ():
            share = self.slab_bytes // len(self._members)
            member.slabs.slab_bytes = 0 if member.reader.in_memory else share

    def start(self, epoch: int) -> None:
        """Read this epoch's labels, then the next one's, in the background."""
        for member in self._members if self.slab_bytes else ():
            groups = [*self._groups(member, epoch), *self._groups(member, (epoch + 1) % 2**32)]
            member.slabs.read_ahead(list(dict.fromkeys(groups)))

    def wait(self, epoch: int) -> None:
        """Until the labels of an epoch that was started are there.

        Warns (FallbackWarning) when they cannot be read ahead; they are read chunk by chunk then.
        """
        for member in self._members if self.slab_bytes else ():
            member.slabs.wait(self._groups(member, epoch))

    def _groups(self, member: Store, epoch: int) -> list[int]:
        """A member's groups that hold the views of an epoch's groups, which are the ensemble's."""
        store = self._order.store
        width, own = store.manifest.group_views, member.manifest.group_views
        groups = groups_of_epoch(
            epoch,
            num_views=store.num_views,
            group_views=width,
            views_per_image=self._order.views_per_image,
            seed=self._order.seed,
        )
        found: dict[int, None] = {}
        for group in groups.tolist():
            stop = min((group + 1) * width, store.num_views)
            found |= dict.fromkeys(range(group * width // own, -(-stop // own)))
        return list(found)
