"""The labels of a block as one object of units, each of which is read and compared alone.

The units of a group of views lie side by side, group after group; behind them the tables of the
block's prefix codes, how many bytes these have, and an index. A group's row of the index says where
its first unit begins, and of each unit how many bytes it has and the digest of its records. The
commit holds the digest of each row.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import UsageError
from labelstore.format.arrays import UNITS, digest_place, view_arrays
from labelstore.format.units.prefix_codes import pack
from labelstore.format.units.unit_code import UnitCode
from labelstore.format.units.unit_digests import piece_digests

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest

    Int64Array = npt.NDArray[np.int64]
    UInt64Array = npt.NDArray[np.uint64]

__all__ = ["COUNT_BYTES", "MOST_UNIT_BYTES", "UnitBlocks", "default_unit_images", "sizes_of"]

MOST_UNIT_BYTES = 0xFFFF
"""Bytes of a unit, at most: an entry of the index has 16 bits for them."""

COUNT_BYTES = 4
"""Bytes of the number that says how many bytes a block's tables have."""

UNIT_LABELS = 64
"""Labels of a unit where nothing else is said: fewer make larger stores, more are read in vain."""

_MOST_RECORD, _MOST_TABLES = 1 << 14, 1 << 14
"""Bytes of a label's record, and prefix codes of a store, at most. A reader makes a table of 4 kB
for each code, whatever a manifest claims."""

_TABLE_BYTES = 129
"""Bytes of a stored prefix code, at most."""

_SIZE = np.uint64(MOST_UNIT_BYTES)


def default_unit_images(group_views: int) -> int:
    """Images of a unit of about ``UNIT_LABELS`` labels."""
    return max(1, UNIT_LABELS // group_views)


def sizes_of(entries: UInt64Array) -> Int64Array:
    """(...) int64: bytes of units by their entries (...) in the index."""
    return (entries & _SIZE).astype(np.int64)


@dataclass(frozen=True)
class UnitBlocks:
    """How the blocks of one store lie in objects of units; its manifest has ``unit_images``.

    Raises, where its code is used:
        UsageError: labels are too large for units.
    """

    manifest: Manifest

    @functools.cached_property
    def code(self) -> UnitCode:
        """The code of the store's records."""
        specs = view_arrays(self.manifest)
        record = sum(math.prod(spec.shape[2:]) * spec.dtype.itemsize for spec in specs)
        listed, classes = bool(self.manifest.prior_size), self.manifest.num_classes
        code = UnitCode(specs, listed, classes) if record <= _MOST_RECORD else None
        if code is None or code.tables > _MOST_TABLES:
            raise UsageError(
                f"a label of {self.manifest.k} classes is too large for units (its codes have "
                f"{record:,} bytes): store fewer classes, or choose the layout of chunks.",
                arguments=("layout",),
            )
        return code

    @functools.cached_property
    def unit_images(self) -> int:
        """Images of a unit."""
        return self.manifest.unit_images or 1

    @functools.cached_property
    def units(self) -> int:
        """Units of a group of a whole block."""
        images = min(self.manifest.block_images, self.manifest.num_images)
        return -(-images // self.unit_images)

    @functools.cached_property
    def row_bytes(self) -> int:
        """Bytes of a group in the index."""
        return 8 * (1 + self.units)

    @functools.cached_property
    def index_bytes(self) -> int:
        """Bytes of the index, the last of an object."""
        return self.row_bytes * self.manifest.num_groups

    @functools.cached_property
    def tables_bytes(self) -> int:
        """Bytes of a block's tables, at most."""
        count: int = self.code.tables
        return count * _TABLE_BYTES

    @property
    def object_bytes(self) -> int:
        """Bytes of an object, at most."""
        images = min(self.unit_images, self.manifest.block_images, self.manifest.num_images)
        labels = images * min(self.manifest.group_views, self.manifest.num_views)
        # A byte of a record takes 11 bits, two of a class id together 27.
        record: int = self.code.record_bytes
        unit = min(2 * labels * record, MOST_UNIT_BYTES)
        units = self.units * self.manifest.num_groups * unit
        behind = self.tables_bytes + COUNT_BYTES + self.index_bytes
        return units + behind

    def parts_of(self, data: bytes) -> tuple[int, int]:
        """How many bytes of a whole block's object are units, and how many tables."""
        behind = self.index_bytes + COUNT_BYTES
        tables = int.from_bytes(data[-behind : -self.index_bytes], "little")
        return len(data) - behind - tables, tables

    def units_of(self, blocks: Int64Array) -> Int64Array:
        """(n,) int64: units of each group of blocks (n,)."""
        return -(-self._images_of(blocks) // self.unit_images)

    def labels(self, blocks: Int64Array, groups: Int64Array, numbers: Int64Array) -> Int64Array:
        """(n,) int64: labels of units by block, group and number in it, which broadcast."""
        manifest = self.manifest
        images = self._images_of(blocks) - numbers * self.unit_images
        first = groups * manifest.group_views
        views = np.minimum(manifest.group_views, manifest.num_views - first)
        labels: Int64Array = np.minimum(images, self.unit_images) * views
        return labels

    def _images_of(self, blocks: Int64Array) -> Int64Array:
        """(n,) int64: images of blocks (n,)."""
        size = self.manifest.block_images
        images: Int64Array = np.minimum(size, self.manifest.num_images - blocks * size)
        return images

    def _labels_of_group(self, block: int, group: int) -> Int64Array:
        """(units,) int64: labels of each unit of a group."""
        blocks = np.array([block])
        return self.labels(blocks, np.array([group]), np.arange(int(self.units_of(blocks)[0])))

    def codes(
        self, group: int, codes: Mapping[str, npt.NDArray[Any]]
    ) -> dict[str, npt.NDArray[Any]]:
        """Codes (labels, ...) of a group, unit after unit, of a block's codes (n, V, ...)."""
        columns = self.manifest.group_slice(group)
        parts = {spec.name: codes[spec.name][:, columns] for spec in view_arrays(self.manifest)}
        return {
            name: np.ascontiguousarray(part).reshape(-1, *part.shape[2:])
            for name, part in parts.items()
        }

    def digests(
        self,
        codes: Mapping[str, npt.NDArray[Any]],
        labels: Int64Array,
        numbers: Int64Array | None = None,
    ) -> UInt64Array:
        """(n,) uint64: digests of units: xxh3_64 of their records, the lowest 16 bits 0.

        The seed is a unit's number in its group. Where that is, the digest of the group's row says.

        Args:
            codes: (sum of labels, ...) by array name, unit after unit. labels: (n,) of each unit.
            numbers: (n,) of the units in their groups; from 0 on when None.
        """
        seeds = np.arange(len(labels)) if numbers is None else numbers
        return self.code.unit_digests(codes, labels, seeds.astype(np.uint64)) & ~_SIZE

    def row_digests(
        self, blocks: Int64Array, groups: Int64Array, entries: UInt64Array
    ) -> UInt64Array:
        """(n,) uint64: what commits hold of groups' rows: the digests of their units' digests.

        Args:
            blocks, groups: (n,) of the rows.
            entries: (n, U) of the rows, with or without the units' bytes; of those that a smaller
                last block does not have, anything.
        """
        unsized = np.ascontiguousarray(entries & ~_SIZE, dtype="<u8")
        rows, width = memoryview(unsized.tobytes()), unsized.shape[1] * 8
        starts = range(0, len(rows), width) if width else [0] * len(blocks)
        ends = (np.array(starts) + 8 * self.units_of(blocks)).tolist()
        places = zip(blocks.tolist(), groups.tolist(), starts, ends, strict=True)
        digests = piece_digests(
            [
                digest_place(self.manifest.id, UNITS, block, group) + rows[start:end]
                for block, group, start, end in places
            ]
        )
        # As ``array_digest``, which this is of many.
        digests[digests == 0] = 1
        return digests

    def block_digests(self, block: int, codes: Mapping[str, npt.NDArray[Any]]) -> UInt64Array:
        """(groups, U) uint64: the digests of all units of a block's codes (n, V, ...), by array
        name; 0 for those that a smaller last block does not have."""
        digests = np.zeros((self.manifest.num_groups, self.units), dtype=np.uint64)
        for group, row in enumerate(digests):
            units = self.digests(self.codes(group, codes), self._labels_of_group(block, group))
            row[: len(units)] = units
        return digests

    def encode(
        self, block: int, codes: Mapping[str, npt.NDArray[Any]]
    ) -> tuple[bytes, UInt64Array]:
        """The object of a block's codes (n, V, ...), by array name, and their ``block_digests``.

        Raises:
            UsageError: a unit has too many bytes.
        """
        groups = [self.codes(group, codes) for group in range(self.manifest.num_groups)]
        lengths = self.code.fit(
            {name: np.concatenate([part[name] for part in groups]) for name in groups[0]}
        )
        digests = np.zeros((len(groups), self.units), dtype=np.uint64)
        index = np.zeros((len(groups), 1 + self.units), dtype="<u8")
        data = []
        place = 0
        for group, part in enumerate(groups):
            labels = self._labels_of_group(block, group)
            units, sizes = self.code.encode_arrays(part, labels, lengths)
            if int(sizes.max(initial=0)) > MOST_UNIT_BYTES:
                raise UsageError(
                    f"a unit of {self.unit_images} images x {self.manifest.group_views} views has "
                    f"{int(sizes.max()):,} bytes, expected at most {MOST_UNIT_BYTES:,}: ask for "
                    "groups of fewer views, or for the layout of chunks.",
                    arguments=("group_views", "layout"),
                )
            index[group, 0] = place
            digests[group, : len(sizes)] = self.digests(part, labels)
            index[group, 1 : 1 + len(sizes)] = sizes
            data.append(units)
            place += len(units)
        index[:, 1:] |= digests
        tables = pack(lengths)
        count = len(tables).to_bytes(COUNT_BYTES, "little")
        return b"".join((*data, tables, count, index.tobytes())), digests
