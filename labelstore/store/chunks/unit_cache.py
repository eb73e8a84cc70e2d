"""A bounded cache of units' records: a batch at random meets some of the units of earlier ones."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import numpy as np

from labelstore.store.chunks.memory_cache import SlotAges, flat_take

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Int64Array = npt.NDArray[np.int64]
    UInt8Array = npt.NDArray[np.uint8]
    Load = Callable[[Int64Array], tuple[UInt8Array, Int64Array]]

__all__ = ["UnitCache"]

_TOGETHER = 4096
"""Units that are loaded at a time."""


_MOST_SLOTS = 2**20
"""Units that are kept, at most: beside its records each takes some hundred bytes."""


class UnitCache:
    """Slots for units, the one used longest ago given up first. Safe to use from threads.

    A store has millions of units, so that what is kept of each is kept of those alone that are
    here. Memory is touched, and so taken, as slots are filled.
    """

    def __init__(self, labels: int, record_bytes: int, num_units: int, cache_bytes: int) -> None:
        """Plan slots.

        Args:
            labels: of a unit, at most. record_bytes: of a label.
            num_units: how many units there are.
            cache_bytes: of all slots together.
        """
        self._labels, self._record_bytes = labels, record_bytes
        most = cache_bytes // (labels * record_bytes)
        self.capacity = int(min(most, num_units, _MOST_SLOTS))
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._lock, self._process = threading.Lock(), os.getpid()
        self._slot_of: dict[int, int] = {}
        self._unit_in: list[int] = []
        self._records: UInt8Array | None = None
        self._ages = SlotAges(0)

    @property
    def used_bytes(self) -> int:
        """Bytes of the slots that are filled."""
        return len(self._slot_of) * self._labels * self._record_bytes

    def take(self, units: Int64Array, places: Int64Array, load: Load) -> UInt8Array:
        """(n, record_bytes) records of labels.

        Args:
            units: (n,) each label's unit; places: (n,) its place there.
            load: gives the records, one after another, of units (m,) that are not here, and (m,)
                how many each has.
        """
        self._after_fork()
        out = np.empty((len(units), self._record_bytes), dtype=np.uint8)
        wanted, which = np.unique(units, return_inverse=True)
        with self._lock:
            slots = np.array([self._slot_of.get(unit, -1) for unit in wanted.tolist()], np.int64)
            here = slots >= 0
            if here.any() and self._records is not None:
                self._ages.use(slots[here])
                rows = np.flatnonzero(here[which])
                flat = slots[which[rows]] * self._labels + places[rows]
                out[rows] = flat_take(self._records, flat, 2)
        missing = np.flatnonzero(~here)
        for start in range(0, len(missing), _TOGETHER):
            part = missing[start : start + _TOGETHER]
            records, labels = load(wanted[part])
            begins = np.zeros(len(wanted), dtype=np.int64)
            begins[part] = np.cumsum(labels) - labels
            if len(part) == len(wanted):
                return self._kept(wanted[part], records, labels, out, begins[which] + places)
            rows = np.flatnonzero((which >= part[0]) & (which <= part[-1]) & ~here[which])
            out[rows] = records.take(begins[which[rows]] + places[rows], axis=0)
            self._keep(wanted[part], records, labels)
        return out

    def _kept(
        self,
        units: Int64Array,
        records: UInt8Array,
        labels: Int64Array,
        out: UInt8Array,
        rows: Int64Array,
    ) -> UInt8Array:
        """All labels of a batch, of units that were all loaded at once; these are kept."""
        self._keep(units, records, labels)
        return records.take(rows, axis=0, out=out)

    def _keep(self, units: Int64Array, records: UInt8Array, labels: Int64Array) -> None:
        """Put units that were loaded into slots, as many as there are."""
        if not self.capacity:
            return
        with self._lock:
            if self._records is None:
                shape = (self.capacity, self._labels, self._record_bytes)
                self._records = np.empty(shape, dtype=np.uint8)
                self._ages = SlotAges(self.capacity)
                self._unit_in = [-1] * self.capacity
            ends = np.cumsum(labels)
            columns = units, ends - labels, ends, labels
            parts = zip(*(column.tolist() for column in columns), strict=True)
            new = [part for part in parts if part[0] not in self._slot_of][: self.capacity]
            for slot, (unit, start, end, count) in zip(self._ages.free(len(new)), new, strict=True):
                self._slot_of.pop(self._unit_in[slot], None)
                self._unit_in[slot] = -1
                self._records[slot, :count] = records[start:end]
                self._unit_in[slot] = unit
                self._slot_of[unit] = slot

    def entry(self, unit: int, place: int) -> UInt8Array | None:
        """(record_bytes,) one label's record; None where its unit is not here."""
        # Others may be changing it, or have been when this process was forked from theirs.
        if os.getpid() != self._process or not self._lock.acquire(blocking=False):
            return None
        try:
            slot = self._slot_of.get(unit, -1)
            if slot < 0 or self._records is None:
                return None
            self._ages.use(slot)
            record: UInt8Array = self._records[slot, place].copy()
            return record
        finally:
            self._lock.release()

    def _after_fork(self) -> None:
        if os.getpid() != self._process:
            # A thread of the parent may have held the lock, in the middle of a change.
            if self._lock.locked():
                self.clear()
            self._lock, self._process = threading.Lock(), os.getpid()
