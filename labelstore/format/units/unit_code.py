"""The labels of a unit, a run of images in one group of views, as one stream of bits.

A label is a record of bytes: its codes (section 4 of SPEC.md), array after array, little-endian. A
unit holds, byte of the record after byte of the record, that byte of all its labels, each as a word
of a prefix code. A shard has one code for each such plane of bytes, so that every unit is decoded
alone, and the first array of a unit without the others.

The compiled part (``_unit_code.c``) decodes four units in step; without it NumPy does it
(``in_numpy``), ten times as slowly, with the same result.

What pays for it: ``python -m benchmarks.units``.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.compiled import compiled_part
from labelstore.format.units import in_numpy
from labelstore.format.units.planes import WIDE, Plane, Units, tables_of, values_of
from labelstore.format.units.prefix_codes import ONLY, lengths_of, words_of
from labelstore.format.units.unit_digests import record_digests

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import numpy.typing as npt

    from labelstore.format.arrays import ArraySpec

    Codes = Mapping[str, npt.NDArray[Any]]
    UInt8Array = npt.NDArray[np.uint8]
    Int64Array = npt.NDArray[np.int64]

__all__ = ["UnitCode"]

_MOST_CONTEXTS = 16
"""Codes of the lower bytes of class ids, at most."""

_ABSENT = 255
"""In place of the bits of a word: the value has none."""


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
            values, tables = values_of(plane, records), tables_of(plane, records)
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
            return in_numpy.encode(self.planes, self.records(codes), counts, lengths)
        bits = np.where(lengths == ONLY, 0, lengths).astype(np.uint8)
        bits[lengths == 0] = _ABSENT
        sizes = np.zeros(len(counts), dtype=np.int64)
        out = np.empty(4 * (len(arrays[0]) * self.record_bytes + len(counts)), dtype=np.uint8)
        end = compiled.encode(
            self._rows, self._widths, words_of(lengths), bits, arrays, counts, out, sizes
        )
        return out[:end].tobytes(), sizes

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
        return record_digests(self._arrays(codes), self._widths, labels, seeds)

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
        fields = self._fields if names is None else {name: self._fields[name] for name in names}
        sizes = np.ascontiguousarray(units.sizes, dtype=np.int64)
        labels = np.ascontiguousarray(units.labels, dtype=np.int64)
        shards = np.ascontiguousarray(units.shards, dtype=np.int64)
        every = int(labels.sum())
        if every < 0:
            raise ValueError("labels of units do not fit their codes")
        last = max((field.part.stop for field in fields.values()), default=0)
        read = {name: f for name, f in self._fields.items() if f.part.start < last}
        count = sum(plane.byte < last for plane in self.planes)
        compiled = _compiled()
        if not read:
            return {}
        if compiled is None:
            units_of_shards = Units(units.data, sizes, labels, shards)
            records = in_numpy.decode(
                self.planes, tables, units_of_shards, count, self.record_bytes, self.tables
            )
            return {
                name: np.ascontiguousarray(records[:, f.part])
                .view(f.dtype)
                .reshape(every, *f.shape)
                for name, f in fields.items()
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
        return {name: out[name] for name in fields}

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


@functools.cache
def _compiled() -> Any:
    """The compiled code of units; None where it was not built."""
    return compiled_part("labelstore.format.units._unit_code")
