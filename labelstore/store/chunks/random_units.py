"""Labels read at random where they lie in units: each unit alone, compared with its digest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from labelstore.format.arrays import UNITS, unit_columns, view_arrays
from labelstore.format.unit_blocks import MOST_UNIT_BYTES
from labelstore.format.validity import label_problem
from labelstore.store.backends.zarr.units import UnitNumbers
from labelstore.store.chunks.unit_cache import UnitCache, ranges

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from labelstore.errors import CorruptError
    from labelstore.format.manifest import Manifest
    from labelstore.store.backends.zarr.units import UnitCodes, UnitReads
    from labelstore.store.chunks.memory_cache import Decode, T

    Codes = dict[str, npt.NDArray[Any]]
    Int64Array = npt.NDArray[np.int64]

__all__ = ["RandomUnits", "UnitBlocksRead"]


_GROUPS_READ = 32
"""Whole groups that are read at a time."""


class UnitBlocksRead(Protocol):
    """What knows of a store's blocks beside their labels."""

    manifest: Manifest

    def committed(self, blocks: Int64Array, columns: Int64Array) -> npt.NDArray[np.uint64]:
        """(n,) digests of commit rows: of each block (n,) that in its column (n,); 0 where none
        is."""

    def corrupt(self, name: str, block: int, group: int | None) -> CorruptError:
        """The error of what is not as it was committed."""

    def require_labels_of(self, problem: str, block: int, group: int) -> None:
        """Raise the CorruptError of labels that were committed and are none."""

    def images_there(self, blocks: Sequence[int]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Of all images of the store (N, m) codes of their lists, m may be 0, and (N,) which could
        not be read; right for those of the blocks alone."""


class RandomUnits:
    """Reads labels of one store at random, and keeps units within a bound."""

    def __init__(self, units: UnitReads, blocks: UnitBlocksRead, cache_bytes: int) -> None:
        """``units`` reads them, ``blocks`` knows what they are compared with; ``cache_bytes`` of
        records are kept."""
        self._units, self._blocks = units, blocks
        self._layout = units.layout
        # Asked for with every label.
        self._per_group, self._unit_images = units.layout.units, units.layout.unit_images
        self._manifest = manifest = blocks.manifest
        self._specs = view_arrays(manifest)
        self._columns = np.array(unit_columns(manifest))
        images = min(self._layout.unit_images, manifest.block_images, manifest.num_images)
        self._unit_labels = images * min(manifest.group_views, manifest.num_views)
        self._num_units = manifest.num_blocks * manifest.num_groups * self._layout.units
        self._cache_bytes = cache_bytes
        self._cache = self._new_cache()

    def _new_cache(self) -> UnitCache:
        return UnitCache(self._specs, self._unit_labels, self._num_units, self._cache_bytes)

    @property
    def used_bytes(self) -> int:
        """Bytes of the units that are kept."""
        return self._cache.used_bytes

    def clear(self) -> None:
        """Forget everything."""
        self._cache.clear()

    def gather(self, images: Int64Array, views: Int64Array) -> Codes:
        """Codes (n, ...) of views (n,) of images (n,), by array name.

        Raises:
            IncompleteError: a block is not committed. CorruptError: what is there is not as it was
            committed, or no label.
        """
        manifest = self._manifest
        blocks, rows = np.divmod(images, manifest.block_images)
        groups, columns = np.divmod(views, manifest.group_views)
        numbers, rows = np.divmod(rows, self._unit_images)
        units = (blocks * manifest.num_groups + groups) * self._per_group + numbers
        width = np.minimum(manifest.group_views, manifest.num_views - groups * manifest.group_views)
        return self._cache.take(units, rows * width + columns, self._load)

    def decoded(self, image: int, view: int, decode: Decode[T]) -> T | None:
        """What ``decode`` makes of one view's codes; None where its unit has to be read first."""
        manifest = self._manifest
        block, row = divmod(image, manifest.block_images)
        group, column = divmod(view, manifest.group_views)
        number, row = divmod(row, self._unit_images)
        width = min(manifest.group_views, manifest.num_views - group * manifest.group_views)
        unit = (block * manifest.num_groups + group) * self._per_group + number
        return self._cache.decoded(unit, row * width + column, decode)

    def whole_groups(
        self, places: Sequence[tuple[int, int]], *, compared: bool = True
    ) -> Iterator[Codes]:
        """Codes (images, views, ...) of whole (block, group), by array name, in order.

        Args:
            compared: whether each unit is compared with its digest; the arrays are not.

        Raises:
            CorruptError: they are not as they were committed.
        """
        for start in range(0, len(places), _GROUPS_READ):
            part = places[start : start + _GROUPS_READ]
            units = self._units.whole(part)
            read = self._units.read(units)
            if compared:
                self._compare(units, read)
            yield from self._units.by_place(part, read.codes)

    def _load(self, units: Int64Array) -> tuple[Codes, Int64Array]:
        """Codes and numbers of labels of units, rising; compared, and checked to be labels."""
        chunks, numbers = np.divmod(units, self._per_group)
        blocks, groups = np.divmod(chunks, self._manifest.num_groups)
        lists, unreadable = self._blocks.images_there(np.unique(blocks).tolist())
        unit_numbers = UnitNumbers(blocks, groups, numbers)
        read = self._units.read(unit_numbers)
        self._compare(unit_numbers, read)
        units_read = _Units(blocks, groups, numbers, read.labels, read.codes)
        # The last group may have fewer views.
        last = groups == self._manifest.num_groups - 1
        for alike in (np.flatnonzero(~last), np.flatnonzero(last)):
            some = units_read.some(alike)
            if not len(alike) or self._problem(some, lists, unreadable) is None:
                continue
            for unit in alike.tolist():
                problem = self._problem(units_read.some(np.array([unit])), lists, unreadable)
                if problem is not None:
                    self._blocks.require_labels_of(problem, int(blocks[unit]), int(groups[unit]))
        return read.codes, read.labels

    def _compare(self, units: UnitNumbers, read: UnitCodes) -> None:
        """CorruptError unless rows of the index are as committed, and units as these say."""
        blocks, groups, entries = read.rows
        committed = self._blocks.committed(blocks, self._columns[groups])
        stored = self._layout.row_digests(blocks, groups, entries)
        for row in np.flatnonzero(stored != committed).tolist():
            raise self._blocks.corrupt(UNITS, int(blocks[row]), int(groups[row]))
        digests = self._layout.digests(read.codes, read.labels, units.numbers)
        differing = (digests ^ read.entries) > np.uint64(MOST_UNIT_BYTES)
        for unit in np.flatnonzero(differing).tolist():
            raise self._blocks.corrupt(UNITS, int(units.blocks[unit]), int(units.groups[unit]))

    def _problem(
        self, units: _Units, lists: npt.NDArray[Any], unreadable: npt.NDArray[np.bool_]
    ) -> str | None:
        """What is wrong with the labels of units of groups of as many views; None where nothing
        is."""
        manifest = self._manifest
        columns = manifest.group_slice(int(units.groups[0]))
        views = columns.stop - columns.start
        first = units.blocks * manifest.block_images + units.numbers * self._layout.unit_images
        images = ranges(first, units.labels // views)
        codes = {
            name: part.reshape(len(images), views, *part.shape[1:])
            for name, part in units.codes.items()
        }
        return label_problem(codes, self._specs, lists[images], unreadable[images], manifest)


class _Units(NamedTuple):
    """Units that were read: (n,) of each, and the codes (sum of labels, ...) of all."""

    blocks: Int64Array
    groups: Int64Array
    numbers: Int64Array
    labels: Int64Array
    codes: Codes

    def some(self, which: Int64Array) -> _Units:
        """Those at places (m,), rising."""
        if len(which) == len(self.labels):
            return self
        starts = np.cumsum(self.labels) - self.labels
        rows = ranges(starts[which], self.labels[which])
        return _Units(
            self.blocks[which],
            self.groups[which],
            self.numbers[which],
            self.labels[which],
            {name: part.take(rows, axis=0) for name, part in self.codes.items()},
        )
