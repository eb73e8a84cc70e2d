"""The labels of a unit, a run of images in one group of views, as one stream of bits.

A label is a record of bytes: its codes (section 4 of SPEC.md), array after array, little-endian. A
unit holds, byte of the record after byte of the record, that byte of all its labels, each as a word
of a prefix code. A shard has one code for each such plane of bytes, so that every unit is decoded
alone, and the first array of a unit without the others.

The compiled parts (``_unit_code.c``, ``_unit_digests.c``) decode four units in step and take the
digests of many in one call; without them NumPy decodes all units in step, ten times as slowly, with
the same result.

What pays for it: ``python -m benchmarks.units``.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from labelstore.compiled import compiled_part
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
    from collections.abc import Collection, Mapping, Sequence

    import numpy.typing as npt

    from labelstore.format.arrays import ArraySpec

    Codes = Mapping[str, npt.NDArray[Any]]
    UInt8Array = npt.NDArray[np.uint8]
    Int64Array = npt.NDArray[np.int64]

__all__ = ["Plane", "UnitCode", "Units"]

WIDE = 255
"""In a wide plane, the value after which 16 bits follow."""

_MOST_CONTEXTS = 16
"""Codes of the lower bytes of class ids, at most."""

_MOST_LABELS = 1 << 24
"""Labels of a unit, at most: no writer's limit, but one for numbers that are damaged."""

_ABSENT = 255
"""In place of the bits of a word: the value has none."""


@dataclass(frozen=True)
class Plane:
    """One byte of all labels' records, or two that are coded as one value.

    Attributes:
        array: the number of the array that it is of.
        byte: its place in the record; of two bytes the first, the lower one.
        table: the number of its code, or of the first of several.
        tables: how many codes it has.
        context: the place in the record of the byte that says which of several codes a value has
            (the last for all values beyond); None for one code.
        wide: whether it is a little-endian uint16. Values below 255 are coded as bytes; others as
            255, and 16 bits behind it, the highest first.
    """

    array: int
    byte: int
    table: int
    tables: int = 1
    context: int | None = None
    wide: bool = False


@dataclass(frozen=True)
class Units:
    """Units of one or several shards.

    Attributes:
        data: their bytes, one unit after another, and nothing or anything behind them.
        sizes: (n,) int64 bytes of each.
        labels: (n,) int64 labels of each.
        shards: (n,) int64, the shard of each, from 0 and never falling.
    """

    data: bytes | memoryview | UInt8Array
    sizes: Int64Array
    labels: Int64Array
    shards: Int64Array

    @classmethod
    def scattered(
        cls,
        parts: Sequence[bytes | memoryview],
        labels: Int64Array,
        shards: Int64Array,
    ) -> Units:
        """Units that were read apart: the bytes of each alone."""
        sizes = np.fromiter(map(len, parts), np.int64, len(parts))
        return cls(b"".join(parts), sizes, labels, shards)


@dataclass(frozen=True)
class _Field:
    """One array in a record: which bytes of it, and the type and the shape of its codes."""

    part: slice
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class UnitCode:
    """How the labels of one store are coded in units.

    Codes are given and taken as arrays by name, (n, ...) with one row a label: unit after unit, and
    in a unit image after image, each with the group's views in order. So they are arrays (images,
    views, ...) of a group, reshaped.
    """

    def __init__(self, specs: Sequence[ArraySpec], listed: bool, num_classes: int) -> None:
        """Of a store's arrays of views.

        Args:
            specs: the arrays, in order. listed: whether images have lists of likely classes.
            num_classes: C.
        """
        self._fields: dict[str, _Field] = {}
        planes: list[Plane] = []
        tables = byte = 0
        for number, spec in enumerate(specs):
            width, entries = spec.dtype.itemsize, int(np.prod(spec.shape[2:]))
            part = slice(byte, byte + width * entries)
            self._fields[spec.name] = _Field(part, spec.dtype, spec.shape[2:])
            of_classes = spec.name == "labels/classes" and width == 2
            for first in range(part.start, part.stop, width):
                if of_classes and (listed or num_classes <= WIDE):
                    planes.append(Plane(number, first, tables, wide=True))
                    tables += 1
                    continue
                for place in range(first + width - 1, first - 1, -1):
                    many = min((num_classes - 1 >> 8) + 1, _MOST_CONTEXTS)
                    low = of_classes and place == first
                    planes.append(
                        Plane(number, place, tables, many, first + 1)
                        if low
                        else Plane(number, place, tables)
                    )
                    tables += many if low else 1
            byte = part.stop
        self.planes = tuple(planes)
        self.record_bytes = byte
        """Bytes of a label's record."""
        self.tables = tables
        """Codes of a shard."""
        starts = [field.part.start for field in self._fields.values()]
        self._rows = np.array(
            [
                (
                    plane.array,
                    plane.byte - starts[plane.array],
                    plane.table,
                    plane.tables,
                    -1 if plane.context is None else plane.context - starts[plane.array],
                    int(plane.wide),
                )
                for plane in planes
            ],
            dtype=np.int32,
        )
        """As the compiled part takes them: places in an array's part of a record."""
        self._widths = np.array(
            [field.part.stop - field.part.start for field in self._fields.values()], np.int64
        )

    def records(self, codes: Codes) -> UInt8Array:
        """(n, record_bytes) uint8 of codes (n, ...) of labels by array name."""
        arrays = self._arrays(codes)
        return np.concatenate([a.view(np.uint8).reshape(len(a), -1) for a in arrays], axis=1)

    def fit(self, codes: Codes) -> UInt8Array:
        """(tables, 256) lengths of words that suit a shard's codes (n, ...) by array name."""
        counts = np.zeros((self.tables, 256), dtype=np.int64)
        compiled = _compiled()
        if compiled is not None:
            arrays = self._arrays(codes)
            compiled.count(self._rows, self._widths, arrays, len(arrays[0]), counts)
            return lengths_of(counts)
        records = self.records(codes)
        for plane in self.planes:
            values, tables = _values(plane, records), _tables(plane, records)
            places = (tables.astype(np.int64) << 8) + np.minimum(values, WIDE)
            counts += np.bincount(places, minlength=counts.size).reshape(counts.shape)
        return lengths_of(counts)

    def encode_arrays(
        self, codes: Codes, labels: Int64Array, lengths: UInt8Array
    ) -> tuple[bytes, Int64Array]:
        """Units, one after another, and their (units,) int64 sizes in bytes.

        Args:
            codes: (sum of labels, ...) of all arrays by name, unit after unit.
            labels: (units,) int64 labels of each.
            lengths: as ``fit`` gives them for codes that these are among.

        Raises:
            ValueError: these are not, or the arrays do not have so many labels.
        """
        arrays = self._arrays(codes)
        counts = np.ascontiguousarray(labels, dtype=np.int64)
        if (counts < 0).any() or counts.sum() != len(arrays[0]):
            raise ValueError("labels of units do not fit their codes")
        compiled = _compiled()
        if compiled is None:
            return self._encode_at_once(self.records(codes), counts, lengths)
        bits = np.where(lengths == ONLY, 0, lengths).astype(np.uint8)
        bits[lengths == 0] = _ABSENT
        sizes = np.zeros(len(counts), dtype=np.int64)
        out = np.empty(4 * (len(arrays[0]) * self.record_bytes + len(counts)), dtype=np.uint8)
        end = compiled.encode(
            self._rows, self._widths, words_of(lengths), bits, arrays, counts, out, sizes
        )
        return out[:end].tobytes(), sizes

    def _encode_at_once(
        self, records: UInt8Array, labels: Int64Array, lengths: UInt8Array
    ) -> tuple[bytes, Int64Array]:
        """As ``encode_arrays``, by NumPy."""
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

    def unit_digests(
        self, codes: Codes, labels: Int64Array, seeds: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.uint64]:
        """(units,) uint64: of each unit xxh3_64 of its labels' records with its seed.

        Args:
            codes: (sum of labels, ...) of all arrays by name, unit after unit.
            labels: (units,) int64 labels of each. seeds: (units,) uint64 of each.

        Raises:
            ValueError: the arrays do not have so many labels.
        """
        labels = np.ascontiguousarray(labels, dtype=np.int64)
        seeds = np.ascontiguousarray(seeds, dtype=np.uint64)
        digests = np.empty(len(labels), dtype=np.uint64)
        arrays = self._arrays(codes)
        compiled = _compiled_digests()
        if compiled is not None:
            compiled.digests(arrays, self._widths, labels, seeds, digests)
            return digests
        if len(seeds) != len(labels) or (labels < 0).any() or labels.sum() != len(arrays[0]):
            raise ValueError("labels of units do not fit their codes")
        view = self.records(codes).data.cast("B")
        ends = np.cumsum(labels) * self.record_bytes
        starts = ends - labels * self.record_bytes
        for unit, (start, end, seed) in enumerate(
            zip(starts.tolist(), ends.tolist(), seeds.tolist(), strict=True)
        ):
            digests[unit] = xxhash.xxh3_64_intdigest(view[start:end], seed)
        return digests

    def decode_arrays(
        self, tables: Sequence[bytes], units: Units, names: Collection[str] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Codes (sum of labels, ...) of units by array name, each array contiguous and writable.

        They are not compared with anything: other bits give other labels. Planes are read in order,
        so that names of the first arrays cost less than those of the last.

        Args:
            tables: of each shard, as ``pack`` of ``prefix_codes`` gives them.
            units: what is to be decoded, of some groups or scattered.
            names: the arrays that are wanted; None for all.

        Raises:
            ValueError: the units or the tables are damaged, or do not fit each other.
            KeyError: a name is none of the store's.
        """
        wanted = self._fields if names is None else {name: self._fields[name] for name in names}
        sizes = np.ascontiguousarray(units.sizes, dtype=np.int64)
        labels = np.ascontiguousarray(units.labels, dtype=np.int64)
        shards = np.ascontiguousarray(units.shards, dtype=np.int64)
        every = int(labels.sum())
        if every < 0:
            raise ValueError("labels of units do not fit their codes")
        last = max((field.part.stop for field in wanted.values()), default=0)
        read = {name: f for name, f in self._fields.items() if f.part.start < last}
        count = sum(plane.byte < last for plane in self.planes)
        compiled = _compiled()
        if not read:
            return {}
        if compiled is None:
            records = self._decode_in_step(tables, Units(units.data, sizes, labels, shards), count)
            return {
                name: np.ascontiguousarray(records[:, f.part])
                .view(f.dtype)
                .reshape(every, *f.shape)
                for name, f in wanted.items()
            }
        out = {name: np.empty((every, *f.shape), dtype=f.dtype) for name, f in read.items()}
        if not compiled.decode(
            self._rows[:count],
            self._widths[: len(read)],
            b"".join(tables),
            np.array([len(part) for part in tables], dtype=np.int64),
            units.data,
            sizes,
            labels,
            shards,
            tuple(out.values()),
            count == len(self.planes),
            self.tables,
        ):
            raise ValueError("units are damaged")
        return {name: out[name] for name in wanted}

    def _arrays(self, codes: Codes) -> tuple[npt.NDArray[Any], ...]:
        """Codes by array name as contiguous arrays, in the order of a record."""
        arrays = tuple(
            np.ascontiguousarray(codes[name], dtype=field.dtype)
            for name, field in self._fields.items()
        )
        shapes = [field.shape for field in self._fields.values()]
        if [a.shape for a in arrays] != [(len(arrays[0]), *shape) for shape in shapes]:
            raise ValueError(
                f"codes have the shapes {[a.shape for a in arrays]}, expected (labels, ...) with "
                f"{shapes} a label"
            )
        return arrays

    def _decode_in_step(self, tables: Sequence[bytes], units: Units, count: int) -> UInt8Array:
        """(sum of labels, record_bytes) records by NumPy, the first ``count`` planes filled: the
        same label of all units of as many labels at a time."""
        held = len(np.frombuffer(units.data, np.uint8))
        _require_fitting(held, units.sizes, units.labels, units.shards, len(tables))
        needed = max((plane.table + plane.tables for plane in self.planes[:count]), default=0)
        lookup = np.concatenate(
            [lookup_of(unpack(tables[shard], self.tables, needed)) for shard in _shards(units)]
            or [np.empty((0, ENTRIES), np.uint16)]
        )
        places = np.unique(units.shards, return_inverse=True)[1]
        ends = np.cumsum(units.sizes)
        rows = np.cumsum(units.labels) - units.labels
        out = np.empty((int(units.labels.sum()), self.record_bytes), dtype=np.uint8)
        for labels in np.unique(units.labels).tolist():
            alike = np.flatnonzero(units.labels == labels)
            window = _windows(units.data, 4 * labels + 8)
            end, start = 8 * ends[alike], 8 * (ends[alike] - units.sizes[alike])
            lanes = _Lanes(lookup.ravel(), window, start, places[alike] * needed)
            part = np.empty((self.record_bytes, labels, len(alike)), dtype=np.uint8)
            for plane in self.planes[:count]:
                lanes.read(plane, part)
                if (lanes.bit > end).any():
                    raise ValueError("a unit ends before its labels do")
            if count == len(self.planes) and (lanes.bit <= end - 8).any():
                raise ValueError("a unit does not end where its labels do")
            if count == len(self.planes) and lanes.rest(end).any():
                raise ValueError("a unit is not filled up with zeros")
            out[rows[alike][:, None] + np.arange(labels)] = part.transpose(2, 1, 0)
        return out


def _shards(units: Units) -> list[int]:
    """The shards that units are of, in order."""
    shards: list[int] = np.unique(units.shards).tolist()
    return shards


def _require_fitting(
    held: int, sizes: Int64Array, labels: Int64Array, shards: Int64Array, tables: int
) -> None:
    """ValueError unless (n,) sizes, labels and shards are of units in ``held`` bytes."""
    if not len(sizes):
        return
    if not sizes.shape == labels.shape == shards.shape:
        raise ValueError("sizes, labels and shards of units do not fit each other")
    # Bounded one by one, so that their sum is one.
    if int(sizes.min()) < 0 or int(sizes.max()) > held or int(sizes.sum()) > held:
        raise ValueError("units do not fit their bytes")
    for count in (int(labels.min()), int(labels.max())):
        if not 0 <= count <= _MOST_LABELS:
            raise ValueError(f"a unit has {count} labels, expected 0 to {_MOST_LABELS:,}")
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
    held = np.frombuffer(data, np.uint8)
    every = np.zeros(len(held) + room + 4, dtype=np.uint32)
    every[: len(held)] = held
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
    """The compiled code of units; None where it was not built."""
    return compiled_part("labelstore.format.units._unit_code")


@functools.cache
def _compiled_digests() -> Any:
    """The compiled digests of units; None where they were not built."""
    return compiled_part("labelstore.format.units._unit_digests")
