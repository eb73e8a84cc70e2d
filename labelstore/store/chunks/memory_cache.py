"""A bounded cache of chunks' codes from which a batch is taken with one index an array.

All chunks of a store have one shape, but for the last ones, which are smaller: so they lie in slots
of a few large arrays, and a batch that touches hundreds of them costs no more Python than one.
"""

from __future__ import annotations

import math
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from labelstore.format.arrays import ArraySpec

    Codes = dict[str, npt.NDArray[Any]]
    Int64Array = npt.NDArray[np.int64]

    Place = int | tuple[int, ...]
    """Where one label is in arrays: its number where labels are their first axis."""
    Decode = Callable[[Codes, Place], "T | None"]
    """Makes something of codes, by array name, and the place of one label among them; of other
    memory, since they may become those of other labels as soon as it returns."""

__all__ = ["ChunkCache", "SlotAges", "flat_take"]

T = TypeVar("T")

_FREED = 64
"""Chunks that are loaded at a time, and so slots that are given up at once."""


class ChunkCache:
    """Slots for chunks, the one used longest ago given up first. Safe to use from threads.

    Memory is touched, and so taken, as slots are filled.
    """

    def __init__(
        self,
        specs: Sequence[ArraySpec],
        chunk_shape: tuple[int, int],
        num_chunks: int,
        cache_bytes: int,
    ) -> None:
        """Plan slots.

        Args:
            specs: the arrays with views.
            chunk_shape: images and views of a chunk.
            num_chunks: how many chunks there are.
            cache_bytes: of all slots together, but at least one slot is had.
        """
        self._specs = specs
        self._shape = chunk_shape
        self._num_chunks = num_chunks
        entry = sum(math.prod(spec.shape[2:]) * spec.dtype.itemsize for spec in specs)
        self.chunk_bytes = math.prod(chunk_shape) * entry
        """Of a chunk's codes, all arrays together."""
        self.capacity = int(min(max(cache_bytes // self.chunk_bytes, 1), num_chunks))
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._lock, self._process = threading.Lock(), os.getpid()
        self._arrays: Codes = {}
        self._flat: Codes = {}
        """The same, with labels as their first axis."""
        # Memory is taken when something is read, which shows how much of a store is there.
        self._slot_of = np.empty(0, dtype=np.int32)
        self._chunk_in = np.empty(0, dtype=np.int64)
        self._ages = SlotAges(0)

    @property
    def used_bytes(self) -> int:
        """Bytes of the slots that are filled."""
        return int((self._chunk_in >= 0).sum()) * self.chunk_bytes

    def take(
        self,
        chunks: Int64Array,
        images: Int64Array,
        views: Int64Array,
        load: Callable[[list[int]], Sequence[Codes]],
    ) -> Codes:
        """Codes (n, ...) of entries, by array name.

        Args:
            chunks: (n,) each entry's chunk; images, views: (n,) its place in the chunk.
            load: gives the codes of chunks that are not here.
        """
        if os.getpid() != self._process:
            # A thread of the parent may have held the lock, in the middle of a change.
            if self._lock.locked():
                self.clear()
            self._lock, self._process = threading.Lock(), os.getpid()
        with self._lock:
            if not len(self._slot_of):
                self._slot_of = np.full(self._num_chunks, -1, dtype=np.int32)
                self._chunk_in = np.full(self.capacity, -1, dtype=np.int64)
                self._ages = SlotAges(self.capacity)
            if not len(chunks):
                return {
                    spec.name: np.empty((0, *spec.shape[2:]), spec.dtype) for spec in self._specs
                }
            slots = self._slot_of[chunks]
            if (slots >= 0).all():
                return self._taken(slots, images, views)
            distinct = np.unique(chunks)
            if len(distinct) <= self.capacity:
                return self._taken(self._filled(distinct, load)[chunks], images, views)
            out: Codes = {
                spec.name: np.empty((len(chunks), *spec.shape[2:]), spec.dtype)
                for spec in self._specs
            }
            for start in range(0, len(distinct), self.capacity):
                part = distinct[start : start + self.capacity]
                rows = np.flatnonzero((chunks >= part[0]) & (chunks <= part[-1]))
                slots = self._filled(part, load)[chunks[rows]]
                for name, codes in self._taken(slots, images[rows], views[rows]).items():
                    out[name][rows] = codes
            return out

    def decoded(self, chunk: int, image: int, view: int, decode: Decode[T]) -> T | None:
        """What ``decode`` makes of one entry of a chunk; None where the chunk is not here."""
        # Others may be changing it, or have been when this process was forked from theirs.
        if os.getpid() != self._process or not self._lock.acquire(blocking=False):
            return None
        try:
            slot = self._slot_of.item(chunk) if len(self._slot_of) else -1
            if slot < 0:
                return None
            self._ages.use(slot)
            place = (slot * self._shape[0] + image) * self._shape[1] + view
            return decode(self._flat, place)
        finally:
            self._lock.release()

    def _taken(self, slots: npt.NDArray[Any], images: Int64Array, views: Int64Array) -> Codes:
        self._ages.use(slots)
        places = (slots.astype(np.int64) * self._shape[0] + images) * self._shape[1] + views
        return {name: array.take(places, axis=0) for name, array in self._flat.items()}

    def _filled(
        self, chunks: Int64Array, load: Callable[[list[int]], Sequence[Codes]]
    ) -> npt.NDArray[np.int32]:
        """The table of slots, once chunks (rising, at most ``capacity``) are all in some slot."""
        slots = self._slot_of[chunks]
        self._ages.use(slots[slots >= 0])
        missing = chunks[slots < 0]
        # In parts, so that what was read and not yet put into its slot stays small.
        for start in range(0, len(missing), _FREED):
            part = missing[start : start + _FREED]
            loaded = load(part.tolist())
            if not self._arrays:
                self._arrays = {
                    spec.name: np.empty((self.capacity, *self._shape, *spec.shape[2:]), spec.dtype)
                    for spec in self._specs
                }
                self._flat = {
                    name: array.reshape(-1, *array.shape[3:])
                    for name, array in self._arrays.items()
                }
            freed = self._ages.free(len(part))
            for chunk, slot, codes in zip(part.tolist(), freed, loaded, strict=True):
                before = self._chunk_in[slot]
                if before >= 0:
                    self._slot_of[before] = -1
                self._chunk_in[slot] = -1
                for name, array in codes.items():
                    self._arrays[name][slot, : array.shape[0], : array.shape[1]] = array
                self._chunk_in[slot] = chunk
                self._slot_of[chunk] = slot
        return self._slot_of


class SlotAges:
    """When each slot of a cache was used last."""

    def __init__(self, capacity: int) -> None:
        """None has been used."""
        self._last_use = np.zeros(capacity, dtype=np.int64)
        self._oldest: list[tuple[int, int]] = []
        self._turn = 0
        self._unused = 0
        """The first slot that has never been used; all behind it have not, either."""

    def use(self, slots: npt.NDArray[Any] | int) -> None:
        """Slots are used now."""
        self._turn += 1
        self._last_use[slots] = self._turn

    def free(self, count: int) -> list[int]:
        """The slots used longest ago (at most as many as there are), marked as used with those that
        were used last: no others are given up before."""
        capacity = len(self._last_use)
        freed = list(range(self._unused, min(self._unused + count, capacity)))
        self._unused += len(freed)
        self._last_use[freed] = self._turn
        while len(freed) < count:
            if not self._oldest:
                # Many at a time, by age: those used since are passed over below.
                many = min(max(capacity // 16, _FREED), capacity)
                slots = np.argpartition(self._last_use, many - 1)[:many]
                slots = slots[np.lexsort((slots, self._last_use[slots]))[::-1]]
                self._oldest = list(
                    zip(slots.tolist(), self._last_use[slots].tolist(), strict=True)
                )
            slot, last_use = self._oldest.pop()
            if self._last_use[slot] == last_use:
                self._last_use[slot] = self._turn
                freed.append(slot)
        return freed


def flat_take(array: npt.NDArray[Any], places: Int64Array, leading: int) -> npt.NDArray[Any]:
    """Entries (n, ...) of an array whose first ``leading`` axes are counted through."""
    return array.reshape(-1, *array.shape[leading:]).take(places, axis=0)
