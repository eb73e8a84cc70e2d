"""The labels of a unit, a run of images in one group of views, as one stream of bits.

A label is a record of bytes: its codes (section 4 of SPEC.md), array after array, little-endian. A
unit holds, byte of the record after byte of the record, that byte of all its labels, each as a word
of a prefix code. A shard has one code for each such plane of bytes, so that every unit is decoded
alone, and the first array of a unit without the others.

The compiled part (``_unit_code.c``) decodes four units in step; without it NumPy decodes all units
in step, ten times as slowly, with the same result.

What pays for it: ``python -m benchmarks.units``.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.format.units.prefix_codes import (
    ENTRIES,
    LONGEST,
    ONLY,
    lengths_of,
    lookup_of,
    unpack,
    words_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from labelstore.format.arrays import ArraySpec

    Codes = Mapping[str, npt.NDArray[Any]]
    UInt8Array = npt.NDArray[np.uint8]
    Int64Array = npt.NDArray[np.int64]

__all__ = ["Plane", "UnitCode", "Units", "room_behind"]

WIDE = 255
"""In a wide plane, the value after which 16 bits follow."""

_MOST_CONTEXTS = 16
"""Codes of the lower bytes of class ids, at most."""


@dataclass(frozen=True)
class Plane:
    """One byte of all labels' records, or two that are coded as one value.

    Attributes:
        byte: its place in the record; of two bytes the first, the lower one.
        table: the number of its code, or of the first of several.
        tables: how many codes it has.
        context: the place in the record of the byte that says which of several codes a value has
            (the last for all values beyond); None for one code.
        wide: whether it is a little-endian uint16. Values below 255 are coded as bytes; others as
            255, and 16 bits behind it, the highest first.
    """

    byte: int
    table: int
    tables: int = 1
    context: int | None = None
    wide: bool = False


@dataclass(frozen=True)
class Units:
    """Units of one or several shards.

    Attributes:
        data: their bytes, one unit after another. With ``room_behind`` bytes of any value behind
            them they are not copied.
        sizes: (n,) int64 bytes of each.
        labels: (n,) int64 labels of each.
        shards: (n,) int64, the shard of each, from 0 and never falling.
    """

    data: bytes | memoryview | UInt8Array
    sizes: Int64Array
    labels: Int64Array
    shards: Int64Array


class UnitCode:
    """How the labels of one store are coded in units."""

    def __init__(self, specs: Sequence[ArraySpec], listed: bool, num_classes: int) -> None:
        """Of a store's arrays of views.

        Args:
            specs: the arrays, in order. listed: whether images have lists of likely classes.
            num_classes: C.
        """
        self._fields: dict[str, tuple[slice, np.dtype[Any], tuple[int, ...]]] = {}
        planes: list[Plane] = []
        tables = byte = 0
        for spec in specs:
            width, entries = spec.dtype.itemsize, int(np.prod(spec.shape[2:]))
            field = slice(byte, byte + width * entries)
            self._fields[spec.name] = field, spec.dtype, spec.shape[2:]
            of_classes = spec.name == "labels/classes" and width == 2
            for first in range(field.start, field.stop, width):
                if of_classes and (listed or num_classes <= WIDE):
                    planes.append(Plane(first, tables, wide=True))
                    tables += 1
                    continue
                for place in range(first + width - 1, first - 1, -1):
                    many = min((num_classes - 1 >> 8) + 1, _MOST_CONTEXTS)
                    low = of_classes and place == first
                    planes.append(
                        Plane(place, tables, many, first + 1) if low else Plane(place, tables)
                    )
                    tables += many if low else 1
            byte = field.stop
        self.planes = tuple(planes)
        self.record_bytes = byte
        """Bytes of a label's record."""
        self.tables = tables
        """Codes of a shard."""
        self._rows = np.array(
            [
                (p.byte, p.table, p.tables, -1 if p.context is None else p.context, int(p.wide))
                for p in planes
            ],
            dtype=np.int32,
        )

    def records(self, codes: Codes) -> UInt8Array:
        """(n, record_bytes) uint8 of codes (n, ...) of labels by array name."""
        count = len(next(iter(codes.values())))
        records = np.empty((count, self.record_bytes), dtype=np.uint8)
        for name, (field, dtype, _) in self._fields.items():
            values = np.ascontiguousarray(codes[name], dtype=dtype).reshape(count, -1)
            records[:, field] = values.view(np.uint8)
        return records

    def codes(self, records: UInt8Array) -> dict[str, npt.NDArray[Any]]:
        """Codes (n, ...) by array name of records (n, record_bytes): views of these."""
        return {
            name: records[:, field].view(dtype).reshape(len(records), *shape)
            for name, (field, dtype, shape) in self._fields.items()
        }

    def fit(self, records: UInt8Array) -> UInt8Array:
        """(tables, 256) lengths of words that suit a shard's records (n, record_bytes)."""
        counts = np.zeros((self.tables, 256), dtype=np.int64)
        for plane in self.planes:
            values, tables = _values(plane, records), _tables(plane, records)
            places = (tables.astype(np.int64) << 8) + np.minimum(values, WIDE)
            counts += np.bincount(places, minlength=counts.size).reshape(counts.shape)
        return lengths_of(counts)

    def encode(
        self, records: UInt8Array, labels: Int64Array, lengths: UInt8Array
    ) -> tuple[bytes, Int64Array]:
        """Units, one after another, and their (n,) sizes.

        Args:
            records: (sum of labels, record_bytes), unit after unit. labels: (n,) of each unit.
            lengths: as ``fit`` gives them for records that these are among.

        Raises:
            ValueError: these are not.
        """
        compiled = _compiled()
        if compiled is None:
            return self._encode_at_once(records, labels, lengths)
        bits = np.where(lengths == ONLY, 0, lengths).astype(np.uint8)
        bits[lengths == 0] = 255
        sizes = np.zeros(len(labels), dtype=np.int64)
        out = np.empty(4 * (records.size + len(labels)), dtype=np.uint8)
        counts = np.ascontiguousarray(labels, dtype=np.int64)
        records = np.ascontiguousarray(records)
        end = compiled.encode(self._rows, words_of(lengths), bits, records, counts, out, sizes)
        return out[:end].tobytes(), sizes

    def _encode_at_once(
        self, records: UInt8Array, labels: Int64Array, lengths: UInt8Array
    ) -> tuple[bytes, Int64Array]:
        """As ``encode``, by NumPy."""
        words, bits = words_of(lengths).astype(np.uint32), np.where(lengths == ONLY, 0, lengths)
        word = np.empty((len(self.planes), len(records)), dtype=np.uint32)
        size = np.empty(word.shape, dtype=np.int64)
        for row, plane in enumerate(self.planes):
            values, tables = _values(plane, records), _tables(plane, records)
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

    def decode(self, tables: Sequence[bytes], units: Units, first: str | None = None) -> UInt8Array:
        """(sum of labels, record_bytes) uint8: records, unit after unit.

        They are not compared with anything: other bits give other labels.

        Args:
            tables: of each shard, as ``pack`` of ``prefix_codes`` gives them.
            units: what is to be decoded.
            first: the name of the first array, where no other is wanted: all other bytes of records
                have any value then.

        Raises:
            ValueError: tables are no codes, or a unit ends elsewhere than its bits do.
        """
        count = len(self.planes)
        if first is not None:
            count = sum(plane.byte < self._fields[first][0].stop for plane in self.planes)
        data, end = np.frombuffer(units.data, np.uint8), int(units.sizes.sum())
        if (units.sizes < 0).any() or (units.sizes > len(data)).any() or end > len(data):
            raise ValueError("units do not fit their bytes")
        compiled = _compiled()
        if compiled is None:
            return self._decode_in_step(tables, units, count)
        out = np.empty((int(units.labels.sum()), self.record_bytes), dtype=np.uint8)
        needed = end + room_behind(units.labels)
        if len(data) < needed:
            held, data = data[:end], np.zeros(needed, dtype=np.uint8)
            data[: len(held)] = held
        done = compiled.decode(
            self._rows,
            b"".join(tables),
            np.array([len(part) for part in tables], dtype=np.int64),
            np.bincount(units.shards, minlength=len(tables)).astype(np.int64),
            data,
            np.ascontiguousarray(units.sizes, dtype=np.int64),
            np.ascontiguousarray(units.labels, dtype=np.int64),
            out,
            count,
            self.tables,
            self.record_bytes,
        )
        if not done:
            raise ValueError("units are damaged")
        return out

    def _decode_in_step(self, tables: Sequence[bytes], units: Units, count: int) -> UInt8Array:
        """As ``decode``, by NumPy: the same label of all units of as many labels at a time."""
        lookup = np.concatenate([lookup_of(unpack(part, self.tables)) for part in tables])
        ends = np.cumsum(units.sizes)
        rows = np.cumsum(units.labels) - units.labels
        out = np.empty((int(units.labels.sum()), self.record_bytes), dtype=np.uint8)
        for labels in np.unique(units.labels).tolist():
            alike = np.flatnonzero(units.labels == labels)
            window = _windows(units.data, 4 * labels + 8)
            start = ends[alike] - units.sizes[alike]
            lanes = _Lanes(lookup.ravel(), window, 8 * start, units.shards[alike] * self.tables)
            part = np.empty((self.record_bytes, labels, len(alike)), dtype=np.uint8)
            for plane in self.planes[:count]:
                lanes.read(plane, part)
                if (lanes.bit > 8 * ends[alike] + 7).any():
                    raise ValueError("a unit ends before its labels do")
            if count == len(self.planes) and ((lanes.bit + 7) // 8 != ends[alike]).any():
                raise ValueError("a unit does not end where its labels do")
            out[rows[alike][:, None] + np.arange(labels)] = part.transpose(2, 1, 0)
        return out


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

    def _next(self, count: int) -> npt.NDArray[np.uint32]:
        """(n,) the next bits of each unit, at most 25 of them."""
        shift = (32 - count - (self.bit & 7)).astype(np.uint32)
        # A damaged unit may lead to far behind the last one.
        words = self._window.take(self.bit >> 3, mode="clip")
        return words >> shift & np.uint32((1 << count) - 1)


def _windows(data: bytes | memoryview | UInt8Array, room: int) -> npt.NDArray[np.uint32]:
    """For each byte, it and the three that follow, the first the highest; 0 behind the last."""
    held = np.frombuffer(data, np.uint8)
    every = np.zeros(len(held) + room + 4, dtype=np.uint32)
    every[: len(held)] = held
    eight, sixteen = np.uint32(8), np.uint32(16)
    two = every[:-1] << eight | every[1:]
    return two[:-2] << sixteen | two[2:]


def room_behind(labels: Int64Array) -> int:
    """Bytes behind units of (n,) labels each that may be read with them."""
    return 4 * int(labels.max(initial=0)) + 32


def _joined(words: npt.NDArray[np.uint32], bits: Int64Array) -> bytes:
    """Words (n,) of (n,) bits, joined, and filled up to a whole byte with zeros."""
    starts = np.cumsum(bits) - bits
    stream = np.zeros(int(bits.sum()), dtype=np.uint8)
    for step in range(int(bits.max(initial=0))):
        longer = np.flatnonzero(bits > step)
        shift = (bits[longer] - 1 - step).astype(np.uint32)
        stream[starts[longer] + step] = words[longer] >> shift & np.uint32(1)
    return np.packbits(stream).tobytes()


def _values(plane: Plane, records: UInt8Array) -> npt.NDArray[Any]:
    """(n,) the values of a plane."""
    low = records[:, plane.byte]
    if not plane.wide:
        return low
    return low | records[:, plane.byte + 1].astype(np.uint16) << 8


def _tables(plane: Plane, records: UInt8Array) -> npt.NDArray[Any]:
    """(n,) the code that each value of a plane has."""
    if plane.context is None:
        return np.full(len(records), plane.table)
    return plane.table + np.minimum(records[:, plane.context], plane.tables - 1).astype(np.int64)


@functools.cache
def _compiled() -> Any:
    """The compiled module; None where it was not built."""
    try:
        return importlib.import_module("labelstore.format.units._unit_code")
    except ImportError:
        return None
