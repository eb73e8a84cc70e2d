"""Reading ahead: the slabs of the epoch that trains, and of the one that comes next.

A random epoch's views lie in one or two groups. A surgical epoch's lie in more: images go through
their passing views at different speeds, so that after some cycles they stand at different groups. A
view that is in no slab costs the decoding of its whole chunk, so memory pays first: as many of the
epoch's groups as ``slab_bytes`` has room for, the most wanted ones first, are held, and those that
the next epoch wants, too, are kept and not read again. The rest is read chunk by chunk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labelstore.store.slabs.slab_cache import SLAB_BYTES

if TYPE_CHECKING:
    import numpy.typing as npt

    from labelstore.store.store import Store
    from labelstore.training.epochs import EpochOrder

__all__ = ["EpochReadAhead"]

_LEAST_SHARE = 8
"""Epochs that show less than one in so many images read single chunks."""

_KEPT = 1.25
"""A slab that is there gives way to one that is wanted by so many times as many views."""


class EpochReadAhead:
    """Has an epoch's labels in memory when it begins: for all processes of the machine at once.

    It does nothing for an order of few of the store's images, and for a materialized copy. Make it
    before the store is handed to workers.
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
        self._members = store.members
        few = len(order.images) * _LEAST_SHARE < store.num_images
        self.slab_bytes = 0 if few else slab_bytes
        self._counts: dict[int, npt.NDArray[np.float64]] = {}
        self._started: int | None = None
        self._wanted: dict[int, list[int]] = {}
        for member in self._members if self.slab_bytes else ():
            share = self.slab_bytes // len(self._members)
            member.slabs.slab_bytes = 0 if member.reader.in_memory else share

    def start(self, epoch: int) -> None:
        """Read this epoch's labels, then the next one's, in the background."""
        if not self.slab_bytes:
            return
        if epoch != self._started:
            self._started, self._wanted = epoch, self._wanted_of(epoch)
        for place, member in enumerate(self._members):
            member.slabs.read_ahead(self._wanted[place])

    def _wanted_of(self, epoch: int) -> dict[int, list[int]]:
        """The groups to read of each member: this epoch's first, then the next one's."""
        epochs = [epoch]
        if epoch + 1 < (self._order.epochs or 2**32):
            epochs.append(epoch + 1)
        self._counts = {
            number: self._counts[number] if number in self._counts else self._order.groups(number)
            for number in epochs
        }
        groups = {}
        for place, member in enumerate(self._members):
            wanted = [group for number in epochs for group in self._groups(member, number)]
            groups[place] = member.slabs.fitting(list(dict.fromkeys(wanted)))
        return groups

    def wait(self, epoch: int) -> None:
        """Until the labels of an epoch that was started are there.

        Warns (FallbackWarning) when they cannot be read ahead; they are read chunk by chunk then.
        """
        for place, member in enumerate(self._members if self.slab_bytes else ()):
            own = set(self._groups(member, epoch))
            member.slabs.wait([group for group in self._wanted.get(place, []) if group in own])

    def _groups(self, member: Store, epoch: int) -> list[int]:
        """A member's groups that hold views of an epoch, the most wanted ones first."""
        store = self._order.store
        counts = self._counts.get(epoch)
        if counts is None:
            counts = self._counts[epoch] = self._order.groups(epoch)
        width, own = store.manifest.group_views, member.manifest.group_views
        showings = np.zeros(member.manifest.num_groups)
        for group in np.flatnonzero(counts).tolist():
            stop = min((group + 1) * width, store.num_views)
            showings[group * width // own : -(-stop // own)] += counts[group]
        # For fewer views than it has chunks a group is not worth reading.
        showings[showings < member.manifest.num_blocks] = 0
        showings[list(member.slabs.held())] *= _KEPT
        order = np.argsort(-showings, kind="stable")
        groups: list[int] = order[: np.count_nonzero(showings)].tolist()
        return groups
