"""A bounded cache of units' codes: a batch at random meets some of the units of earlier ones."""

from __future__ import annotations

import math
import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.store.chunks.memory_cache import SlotAges, T

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from labelstore.format.arrays import ArraySpec
    from labelstore.store.chunks.memory_cache import Decode

    Codes = dict[str, npt.NDArray[Any]]
    Int64Array = npt.NDArray[np.int64]
    Load = Callable[[Int64Array], tuple[Codes, Int64Array]]

__all__ = ["UnitCache", "ranges"]

_TOGETHER = 4096
"""Units that are loaded at a time."""

_MOST_SLOTS = 2**20
"""Units that are kept, at most: beside its codes each takes some hundred bytes."""


class UnitCache:
    """Slots for units, the one used longest ago given up first. Safe to use from threads.

    A store has millions of units, so that what is known of a unit is known of those alone that are
    here. Memory is touched, and so taken, as slots are filled.
    """

    def __init__(
        self, specs: Sequence[ArraySpec], labels: int, num_units: int, cache_bytes: int
    ) -> None:
        """Plan slots.

        Args:
            specs: the arrays with views.
            labels: of a unit, at most.
            num_units: how many units there are.
            cache_bytes: of all slots together.
        """
        self._specs, self._labels = specs, labels
        entry = sum(math.prod(spec.shape[2:]) * spec.dtype.itemsize for spec in specs)
        self._slot_bytes = labels * entry
        self.capacity = int(min(cache_bytes // self._slot_bytes, num_units, _MOST_SLOTS))
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._lock, self._process = threading.Lock(), os.getpid()
        self._slot_of: dict[int, int] = {}
        self._unit_in: dict[int, int] = {}
        self._arrays: Codes = {}
        self._flat: Codes = {}
        """The same, with labels as their first axis."""
        self._ages = SlotAges(0)

    @property
    def used_bytes(self) -> int:
        """Bytes of the slots that are filled."""
        return len(self._slot_of) * self._slot_bytes

    def take(self, units: Int64Array, places: Int64Array, load: Load) -> Codes:
        """Codes (n, ...) of labels, by array name.

        Args:
            units: (n,) each label's unit; places: (n,) its place there.
            load: gives the codes (sum of labels, ...), unit after unit, of units (m,) that are not
                here, and (m,) how many labels each has.
        """
        self._after_fork()
        with self._lock:
            at = list(map(self._slot_of.get, units.tolist()))
            if at and None not in at:
                known = np.array(at, dtype=np.int64)
                self._ages.use(known)
                flat = known * self._labels + places
                return {name: array.take(flat, axis=0) for name, array in self._flat.items()}
        distinct, which = np.unique(units, return_inverse=True)
        out: Codes = {
            spec.name: np.empty((len(units), *spec.shape[2:]), spec.dtype) for spec in self._specs
        }
        with self._lock:
            slots = np.array([self._slot_of.get(unit, -1) for unit in distinct.tolist()], np.int64)
            here = slots >= 0
            if here.any():
                self._ages.use(slots[here])
                rows = np.flatnonzero(here[which])
                flat = slots[which[rows]] * self._labels + places[rows]
                for name, array in self._flat.items():
                    out[name][rows] = array.take(flat, axis=0)
        missing = np.flatnonzero(~here)
        for start in range(0, len(missing), _TOGETHER):
            part = missing[start : start + _TOGETHER]
            codes, labels = load(distinct[part])
            begins = np.full(len(distinct), -1, dtype=np.int64)
            begins[part] = np.cumsum(labels) - labels
            rows = np.flatnonzero(begins[which] >= 0)
            flat = begins[which[rows]] + places[rows]
            for name, array in codes.items():
                out[name][rows] = array.take(flat, axis=0)
            self._keep(distinct[part], codes, labels)
        return out

    def _keep(self, units: Int64Array, codes: Codes, labels: Int64Array) -> None:
        """Put units that were loaded into slots, as many as there are."""
        with self._lock:
            new = [at for at, unit in enumerate(units.tolist()) if unit not in self._slot_of]
            chosen = np.array(new[: self.capacity], dtype=np.int64)
            if not len(chosen):
                return
            if not self._arrays:
                self._ages = SlotAges(self.capacity)
                self._arrays = {
                    spec.name: np.empty((self.capacity, self._labels, *spec.shape[2:]), spec.dtype)
                    for spec in self._specs
                }
                self._flat = {
                    name: array.reshape(-1, *array.shape[2:])
                    for name, array in self._arrays.items()
                }
            slots = self._ages.free(len(chosen))
            for slot in slots:
                self._slot_of.pop(self._unit_in.pop(slot, -1), None)
            if (labels == self._labels).all():
                for name, array in self._arrays.items():
                    array[slots] = codes[name].reshape(-1, *array.shape[1:])[chosen]
            else:
                starts = np.cumsum(labels) - labels
                rows = ranges(starts[chosen], labels[chosen])
                places = ranges(np.array(slots) * self._labels, labels[chosen])
                for name, array in self._flat.items():
                    array[places] = codes[name].take(rows, axis=0)
            numbers = units[chosen].tolist()
            self._unit_in.update(zip(slots, numbers, strict=True))
            self._slot_of.update(zip(numbers, slots, strict=True))

    def decoded(self, unit: int, place: int, decode: Decode[T]) -> T | None:
        """What ``decode`` makes of one label of a unit; None where the unit is not here."""
        # Others may be changing it, or have been when this process was forked from theirs.
        if os.getpid() != self._process or not self._lock.acquire(blocking=False):
            return None
        try:
            slot = self._slot_of.get(unit, -1)
            if slot < 0:
                return None
            self._ages.use(slot)
            return decode(self._flat, slot * self._labels + place)
        finally:
            self._lock.release()

    def _after_fork(self) -> None:
        if os.getpid() != self._process:
            # A thread of the parent may have held the lock, in the middle of a change.
            if self._lock.locked():
                self.clear()
            self._lock, self._process = threading.Lock(), os.getpid()


def ranges(starts: Int64Array, lengths: Int64Array) -> Int64Array:
    """(sum of lengths,) int64: n ranges of numbers, (n,) starts and lengths, one after another."""
    ends = np.cumsum(lengths)
    apart: Int64Array = np.repeat(starts - (ends - lengths), lengths)
    return apart + np.arange(len(apart))
