"""The code of units by NumPy: what defines it, and what decodes where nothing was compiled.

All units are decoded in step, ten times as slowly as by the compiled part, with the same result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labelstore.format.units.planes import MOST_LABELS, WIDE, tables_of, values_of
from labelstore.format.units.prefix_codes import (
    ENTRIES,
    LONGEST,
    ONLY,
    lookup_of,
    unpack,
    words_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from labelstore.format.units.planes import Plane, Units

    UInt8Array = npt.NDArray[np.uint8]
    Int64Array = npt.NDArray[np.int64]

__all__ = ["decode", "encode"]


def encode(
    planes: Sequence[Plane], records: UInt8Array, labels: Int64Array, lengths: UInt8Array
) -> tuple[bytes, Int64Array]:
    """Units of records (sum of labels, record_bytes), one after another, and their sizes in bytes.

    Raises:
        ValueError: a value has no word.
    """
    words, bits = words_of(lengths).astype(np.uint32), np.where(lengths == ONLY, 0, lengths)
    word = np.empty((len(planes), len(records)), dtype=np.uint32)
    size = np.empty(word.shape, dtype=np.int64)
    for row, plane in enumerate(planes):
        values, tables = values_of(plane, records), tables_of(plane, records)
        low = np.minimum(values, WIDE)
        if not lengths[tables, low].all():
            raise ValueError("a value has no word in its table")
        word[row], size[row] = words[tables, low], bits[tables, low]
        if plane.wide:
            escaped = np.flatnonzero(values >= WIDE)
            word[row, escaped] = word[row, escaped] << np.uint32(16) | values[escaped]
            size[row, escaped] += 16
    ends = np.cumsum(labels)
    parts = [
        _joined(word[:, start:stop].ravel(), size[:, start:stop].ravel())
        for start, stop in zip((ends - labels).tolist(), ends.tolist(), strict=True)
    ]
    return b"".join(parts), np.array([len(part) for part in parts], dtype=np.int64)


def decode(
    planes: Sequence[Plane],
    tables: Sequence[bytes],
    units: Units,
    count: int,
    record_bytes: int,
    every: int,
) -> UInt8Array:
    """(sum of labels, record_bytes) records, the first ``count`` planes filled: the same label of
    all units of as many labels at a time. ``every``: codes of a shard.

    Raises:
        ValueError: the units or the tables are damaged, or do not fit each other.
    """
    nbytes = len(np.frombuffer(units.data, np.uint8))
    _require_fitting(nbytes, units.sizes, units.labels, units.shards, len(tables))
    needed = max((plane.table + plane.tables for plane in planes[:count]), default=0)
    lookup = np.concatenate(
        [lookup_of(unpack(tables[shard], every, needed)) for shard in _shards(units)]
        or [np.empty((0, ENTRIES), np.uint16)]
    )
    places = np.unique(units.shards, return_inverse=True)[1]
    ends = np.cumsum(units.sizes)
    rows = np.cumsum(units.labels) - units.labels
    out = np.empty((int(units.labels.sum()), record_bytes), dtype=np.uint8)
    for labels in np.unique(units.labels).tolist():
        alike = np.flatnonzero(units.labels == labels)
        window = _windows(units.data, 4 * labels + 8)
        end, start = 8 * ends[alike], 8 * (ends[alike] - units.sizes[alike])
        lanes = _Lanes(lookup.ravel(), window, start, places[alike] * needed)
        part = np.empty((record_bytes, labels, len(alike)), dtype=np.uint8)
        for plane in planes[:count]:
            lanes.read(plane, part)
            if (lanes.bit > end).any():
                raise ValueError("a unit ends before its labels do")
        if count == len(planes) and (lanes.bit <= end - 8).any():
            raise ValueError("a unit does not end where its labels do")
        if count == len(planes) and lanes.rest(end).any():
            raise ValueError("a unit is not filled up with zeros")
        out[rows[alike][:, None] + np.arange(labels)] = part.transpose(2, 1, 0)
    return out


def _shards(units: Units) -> list[int]:
    """The shards that units are of, in order."""
    shards: list[int] = np.unique(units.shards).tolist()
    return shards


def _require_fitting(
    nbytes: int, sizes: Int64Array, labels: Int64Array, shards: Int64Array, tables: int
) -> None:
    """ValueError unless (n,) sizes, labels and shards are of units in ``nbytes`` bytes."""
    if not len(sizes):
        return
    if not sizes.shape == labels.shape == shards.shape:
        raise ValueError("sizes, labels and shards of units do not fit each other")
    # Bounded one by one, so that their sum is one.
    if int(sizes.min()) < 0 or int(sizes.max()) > nbytes or int(sizes.sum()) > nbytes:
        raise ValueError("units do not fit their bytes")
    for count in (int(labels.min()), int(labels.max())):
        if not 0 <= count <= MOST_LABELS:
            raise ValueError(f"a unit has {count} labels, expected 0 to {MOST_LABELS:,}")
    if int(shards[0]) < 0 or int(shards[-1]) >= tables or (shards[1:] < shards[:-1]).any():
        raise ValueError("shards of units do not fit their tables")


class _Lanes:
    """Units that are decoded in step: where each is."""

    def __init__(
        self,
        lookup: npt.NDArray[np.uint16],
        window: npt.NDArray[np.uint32],
        bit: Int64Array,
        tables: Int64Array,
    ) -> None:
        """``lookup`` of all shards' tables; ``bit``, ``tables``: (n,) where each unit begins."""
        self._lookup, self._window, self._tables, self.bit = lookup, window, tables, bit

    def read(self, plane: Plane, out: UInt8Array) -> None:
        """Fill a plane's bytes of (record_bytes, labels, n)."""
        first = (self._tables + plane.table) * ENTRIES
        for label in range(out.shape[1]):
            table = first
            if plane.context is not None:
                which = np.minimum(out[plane.context, label], plane.tables - 1)
                table = first + which.astype(np.int64) * ENTRIES
            entry = self._lookup[table + self._next(LONGEST)]
            self.bit = self.bit + (entry & 15)
            value = entry >> 4
            if plane.wide:
                escaped = np.flatnonzero(value == WIDE)
                value[escaped] = self._next(16)[escaped]
                self.bit[escaped] += 16
                out[plane.byte + 1, label] = value >> 8
            out[plane.byte, label] = value & 255

    def rest(self, end: Int64Array) -> npt.NDArray[np.uint32]:
        """(n,) the bits of each unit from where it is up to (n,) ``end``, at most 7 behind it."""
        return self._next(7) >> (7 - (end - self.bit)).astype(np.uint32)

    def _next(self, count: int) -> npt.NDArray[np.uint32]:
        """(n,) the next bits of each unit, at most 25 of them."""
        shift = (32 - count - (self.bit & 7)).astype(np.uint32)
        # A damaged unit may lead to far behind the last one.
        words = self._window.take(self.bit >> 3, mode="clip")
        return words >> shift & np.uint32((1 << count) - 1)


def _windows(data: bytes | memoryview | UInt8Array, room: int) -> npt.NDArray[np.uint32]:
    """For each byte, it and the three that follow, the first the highest; 0 behind the last."""
    octets = np.frombuffer(data, np.uint8)
    every = np.zeros(len(octets) + room + 4, dtype=np.uint32)
    every[: len(octets)] = octets
    eight, sixteen = np.uint32(8), np.uint32(16)
    two = every[:-1] << eight | every[1:]
    return two[:-2] << sixteen | two[2:]


def _joined(words: npt.NDArray[np.uint32], bits: Int64Array) -> bytes:
    """Words (n,) of (n,) bits, joined, and filled up to a whole byte with zeros."""
    starts = np.cumsum(bits) - bits
    stream = np.zeros(int(bits.sum()), dtype=np.uint8)
    for step in range(int(bits.max(initial=0))):
        longer = np.flatnonzero(bits > step)
        shift = (bits[longer] - 1 - step).astype(np.uint32)
        stream[starts[longer] + step] = words[longer] >> shift & np.uint32(1)
    return np.packbits(stream).tobytes()
