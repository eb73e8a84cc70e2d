"""Reading labels that lie in units (``labelstore.format.unit_blocks``), wherever their objects are.

A batch at random needs a few units of each of hundreds of groups. So each block's object is opened
once, all its rows of the index and all its units are read together, and what is found is looked at
for all groups of the batch at once.

Nothing that is read here has been compared with digests: who asks holds the commits.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from labelstore.format.unit_blocks import COUNT_BYTES, UnitBlocks, sizes_of
from labelstore.format.units.planes import MOST_LABELS, Units
from labelstore.storage.untrusted import check_expansion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest
    from labelstore.store.backends.zarr.unit_objects import BlockObject

    Opener = Callable[[int, int], BlockObject]
    Codes = dict[str, npt.NDArray[Any]]
    Int64Array = npt.NDArray[np.int64]
    UInt64Array = npt.NDArray[np.uint64]

__all__ = ["UnitCodes", "UnitNumbers", "UnitReads"]

T = TypeVar("T")

_APART = 4096
"""Units that lie so few bytes apart are read as one piece."""

_OPEN = 128
"""Objects that are open at a time: a process may have some hundred."""

_UNPROVED = 2**22
"""Bytes of an index that is believed to be there."""

_MOST_KEPT = 2**25
"""Bytes of tables that are kept, about at most."""


class UnitNumbers(NamedTuple):
    """Some units: (n,) int64 of each.

    Those of a block, and in it of a group, stand side by side; in a group they rise.
    """

    blocks: Int64Array
    groups: Int64Array
    numbers: Int64Array
    """In their groups."""

    def part(self, start: int, stop: int) -> UnitNumbers:
        """A run of them."""
        return UnitNumbers(*(each[start:stop] for each in self))


class Rows(NamedTuple):
    """Rows of indices, of the groups that some units are of."""

    blocks: Int64Array
    groups: Int64Array
    entries: UInt64Array
    """(n, U); those of units that a smaller last block does not have are 0."""


@dataclass(frozen=True)
class UnitCodes:
    """Units that were read, and what their indices say of them; not compared with anything."""

    codes: Codes
    """(sum of labels, ...) of all units, in order, by array name."""
    labels: Int64Array
    """(n,) labels of each unit."""
    entries: UInt64Array
    """(n,) of each unit in the index."""
    rows: Rows
    """Those of all groups that the units are of."""


class _Opened:
    """Opens objects, and closes them in the end; threads may do so together."""

    def __init__(self, objects: Opener) -> None:
        self._objects = objects
        self._opened: list[BlockObject] = []

    def __call__(self, block: int, tail: int) -> BlockObject:
        one = self._objects(block, tail)
        self._opened.append(one)
        return one

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *error: object) -> None:
        for one in self._opened:
            one.close()


class _Head(NamedTuple):
    """What is asked of a block's object first."""

    opened: BlockObject
    end: int
    """Where its units end."""
    tables: bytes
    rows: list[bytes | memoryview]


class _Places(NamedTuple):
    """Where units lie in their objects: (n,) of each, in bytes."""

    starts: Int64Array
    sizes: Int64Array


class _Fetched(NamedTuple):
    """The bytes of units of some blocks."""

    tables: list[bytes]
    """Of each block."""
    data: bytes
    sizes: Int64Array
    entries: UInt64Array
    rows: Rows


class UnitReads:
    """Reads the units of one store's blocks; threads may do so together."""

    def __init__(
        self,
        manifest: Manifest,
        objects: Callable[[], AbstractContextManager[Opener]],
        together: Callable[[Iterable[Callable[[], Any]]], Iterator[Any]],
        guard: Callable[[int], AbstractContextManager[None]],
    ) -> None:
        """Of a store.

        Args:
            manifest: of a store with units.
            objects: meanwhile objects are opened by block and number of bytes that are wanted of
                their end; FileNotFoundError where there is none.
            together: what calls return, in order, some of them perhaps at once.
            guard: makes of what decoding raises the error of a damaged block.
        """
        self.layout = UnitBlocks(manifest)
        self._manifest = manifest
        self._objects, self._together, self._guard = objects, together, guard
        self._tables: dict[int, tuple[object, bytes]] = {}
        self._kept_bytes = 0

    def forget(self, blocks: Sequence[int] | None = None) -> None:
        """Some blocks may have been made again; all when None."""
        if blocks is None:
            self._tables, self._kept_bytes = {}, 0
        for block in blocks or ():
            self._tables.pop(block, None)

    def whole(self, places: Sequence[tuple[int, int]]) -> UnitNumbers:
        """All units of some (block, group), those of a block side by side.

        Raises:
            As ``read``.
        """
        blocks, groups = np.array(places, dtype=np.int64).T
        if self.layout.index_bytes > _UNPROVED:
            # So large an index must be there before anything is made of its size.
            with self._objects() as objects, _Opened(objects) as opened:
                for block in dict.fromkeys(blocks.tolist()):
                    self._head(block, (), opened)
        units = self.layout.units_of(blocks)
        starts = np.repeat(np.cumsum(units) - units, units)
        numbers = np.arange(len(starts)) - starts
        return UnitNumbers(np.repeat(blocks, units), np.repeat(groups, units), numbers)

    def read(self, units: UnitNumbers, names: Sequence[str] | None = None) -> UnitCodes:
        """Some units, one at least.

        Args:
            units: which. names: of the arrays that are wanted; all when None.

        Raises:
            CorruptError: an object is not there, or not as it was written. StoreError: it cannot be
            read.
        """
        begins = _begins(units.blocks)
        ends = np.append(begins[1:], len(units.blocks))
        steps = range(0, len(begins), _OPEN)
        parts = [
            self._fetch(units.part(begins[step], ends[min(step + _OPEN, len(ends)) - 1]))
            for step in steps
        ]
        tables = [one for part in parts for one in part.tables]
        data = parts[0].data if len(parts) == 1 else b"".join(part.data for part in parts)
        sizes, entries = _joined([(part.sizes, part.entries) for part in parts])
        labels = self.layout.labels(*units)
        if int(labels.max()) >= MOST_LABELS:
            with self._guard(int(units.blocks[0])):
                raise ValueError(f"a unit of {labels.max():,} labels")
        shards = np.repeat(np.arange(len(begins)), ends - begins)
        coded = Units(data, sizes, labels, shards)
        try:
            codes = self.layout.code.decode_arrays(tables, coded, names)
        except ValueError:
            self._decode_each(units.blocks[begins].tolist(), tables, coded, names)
            raise
        return UnitCodes(codes, labels, entries, Rows(*_joined([part.rows for part in parts])))

    def _decode_each(
        self, blocks: Sequence[int], tables: list[bytes], units: Units, names: Sequence[str] | None
    ) -> None:
        """Decode blocks one by one, to name the one that is damaged."""
        place = 0
        for shard, block in enumerate(blocks):
            here = units.shards == shard
            sizes = units.sizes[here]
            start, place = place, place + int(sizes.sum())
            none = np.zeros(len(sizes), dtype=np.int64)
            part = Units(units.data[start:place], sizes, units.labels[here], none)
            with self._guard(block):
                self.layout.code.decode_arrays([tables[shard]], part, names)

    def codes(
        self, block: int, groups: Sequence[int], names: Sequence[str] | None = None
    ) -> list[Codes]:
        """Codes (images, views, ...) of whole groups of a block, by array name; of all when None.

        Raises:
            As ``read``.
        """
        places = [(block, group) for group in groups]
        return self.by_place(places, self.read(self.whole(places), names).codes)

    def by_place(self, places: Sequence[tuple[int, int]], codes: Codes) -> list[Codes]:
        """Codes (images, views, ...) by array name of each of some whole (block, group) that were
        read."""
        codes_by_place: list[Codes] = []
        end = 0
        for block, group in places:
            rows, columns = self._manifest.block_slice(block), self._manifest.group_slice(group)
            images, views = rows.stop - rows.start, columns.stop - columns.start
            start, end = end, end + images * views
            parts = {name: part[start:end] for name, part in codes.items()}
            codes_by_place.append(
                {name: p.reshape(images, views, *p.shape[1:]) for name, p in parts.items()}
            )
        return codes_by_place

    def runs(self, images: slice, wanted: Sequence[tuple[str, slice]]) -> list[npt.NDArray[Any]]:
        """Codes of arrays for runs of views of the same run of images.

        Args:
            images: the images. wanted: array names and runs of views.

        Raises:
            As ``read``.
        """
        size, columns = self._manifest.block_images, self._manifest.group_views
        spans = [range(views.start // columns, -(-views.stop // columns)) for _, views in wanted]
        groups = sorted({group for span in spans for group in span})
        names = sorted({name for name, _ in wanted})
        parts: list[list[npt.NDArray[Any]]] = [[] for _ in wanted]
        for block in range(images.start // size, -(-images.stop // size)):
            start = max(images.start - block * size, 0)
            inner = slice(start, min(images.stop - block * size, size))
            chunks = dict(zip(groups, self.codes(block, groups, names), strict=True))
            for part, (name, views), span in zip(parts, wanted, spans, strict=True):
                group_codes = [chunks[group][name] for group in span]
                codes = (
                    group_codes[0] if len(group_codes) == 1 else np.concatenate(group_codes, axis=1)
                )
                begin = views.start - span.start * columns
                part.append(codes[inner, begin : begin + views.stop - views.start])
        return [part[0] if len(part) == 1 else np.concatenate(part) for part in parts]

    def _fetch(self, units: UnitNumbers) -> _Fetched:
        """The bytes of units of at most ``_OPEN`` blocks."""
        begins = _begins(units.blocks)
        blocks = units.blocks[begins].tolist()
        firsts = _begins(units.blocks * self._manifest.num_groups + units.groups)
        row_blocks, row_groups = units.blocks[firsts], units.groups[firsts]
        of_block = _split(row_groups.tolist(), np.searchsorted(firsts, begins))
        with self._objects() as objects, _Opened(objects) as opened:
            heads: list[_Head] = self._all(
                functools.partial(self._head, block, groups, opened)
                for block, groups in zip(blocks, of_block, strict=True)
            )
            raw = b"".join(row for head in heads for row in head.rows)
            held = np.frombuffer(raw, "<u8").reshape(len(firsts), -1)
            entries = self._entries_of(row_blocks, held)
            limits = np.repeat(
                np.array([head.end for head in heads], dtype=np.uint64),
                np.array([len(groups) for groups in of_block]),
            )
            ends = self._ends_of(row_blocks, held[:, 0], entries, limits)
            row = np.repeat(
                np.arange(len(firsts)), np.append(firsts[1:], len(units.blocks)) - firsts
            )
            own_entries = entries[row, units.numbers]
            sizes = sizes_of(own_entries)
            places = _Places(ends[row, units.numbers] - sizes, sizes)
            self._check_room(units, begins, sizes)
            data = self._data_of(blocks, begins, places, heads)
        rows = Rows(row_blocks, row_groups, entries)
        return _Fetched([head.tables for head in heads], data, sizes, own_entries, rows)

    def _all(self, calls: Iterable[Callable[[], T]]) -> list[T]:
        """What calls return, in order."""
        every = list(calls)
        # A single block may be asked for by a thread of those who read together.
        return list(self._together(every)) if len(every) > 1 else [every[0]()]

    def _head(self, block: int, groups: Sequence[int], opened: _Opened) -> _Head:
        """Open a block's object; its tables and rows of groups."""
        try:
            return self._read_head(block, groups, opened)
        except Exception:
            # As a rule there is none; to be guarded takes as long as to be read.
            with self._guard(block):
                raise

    def _read_head(self, block: int, groups: Sequence[int], opened: _Opened) -> _Head:
        layout = self.layout
        index_bytes, row_bytes = layout.index_bytes, layout.row_bytes
        try:
            one = opened(block, layout.tables_bytes + COUNT_BYTES + index_bytes)
        except FileNotFoundError as error:
            raise ValueError("it is not there") from error
        index = one.size - index_bytes
        if index < COUNT_BYTES:
            raise ValueError(f"no index of {index_bytes} bytes at its end")
        rows = [(index + group * row_bytes, row_bytes) for group in groups]
        stop = index - COUNT_BYTES
        version, tables = self._tables.get(block, (None, b""))
        if version is not None and version == one.version:
            return _Head(one, stop - len(tables), tables, list(one.read(rows)))
        room = min(stop, layout.tables_bytes)
        behind, *row_data = one.read([(stop - room, room + COUNT_BYTES), *rows])
        length = int.from_bytes(behind[room:], "little")
        if length > room:
            raise ValueError(f"tables of {length} bytes before byte {stop}")
        tables = bytes(behind[room - length : room])
        if one.version is not None:
            self._keep_tables(block, one.version, tables)
        return _Head(one, stop - length, tables, row_data)

    def _keep_tables(self, block: int, version: object, tables: bytes) -> None:
        if self._kept_bytes > _MOST_KEPT:
            self.forget()
        self._kept_bytes += len(tables)
        self._tables[block] = version, tables

    def _entries_of(self, blocks: Int64Array, held: UInt64Array) -> UInt64Array:
        """(n, U) entries of rows (n, 1 + U), 0 behind those that a smaller last block has."""
        entries, units = held[:, 1:], self.layout.units_of(blocks)
        if units.min() < entries.shape[1]:
            entries = np.where(np.arange(entries.shape[1]) < units[:, np.newaxis], entries, 0)
        return entries

    def _ends_of(
        self, blocks: Int64Array, first: UInt64Array, entries: UInt64Array, limits: UInt64Array
    ) -> Int64Array:
        """(n, U) where units of rows end in their objects; of a block where they would not lie
        before (n,) ``limits``, its error."""
        ends = np.cumsum(sizes_of(entries), axis=1)
        most = ends[:, -1].astype(np.uint64)
        wrong = np.flatnonzero((first > limits) | (first + most > limits))
        if len(wrong):
            bad = wrong[0]
            with self._guard(int(blocks[bad])):
                raise ValueError(
                    f"units of {most[bad]} bytes at {first[bad]}, before byte {limits[bad]}"
                )
        ends += first.astype(np.int64)[:, np.newaxis]
        return ends

    def _check_room(self, units: UnitNumbers, begins: Int64Array, sizes: Int64Array) -> None:
        """Words of no bits make records of nothing."""
        labels, record = self.layout.labels(*units), self.layout.code.record_bytes
        stored, decoded = np.add.reduceat(sizes, begins), np.add.reduceat(labels, begins) * record
        blocks = units.blocks[begins].tolist()
        for block, stored_bytes, decoded_bytes in zip(
            blocks, stored.tolist(), decoded.tolist(), strict=True
        ):
            try:
                check_expansion(decoded_bytes, stored_bytes)
            except ValueError:
                with self._guard(block):
                    raise

    def _data_of(
        self, blocks: Sequence[int], begins: Int64Array, places: _Places, heads: Sequence[_Head]
    ) -> bytes:
        """The bytes of units, one after another; at ``begins`` those of each block begin."""
        starts, ends = places.starts, places.starts + places.sizes
        apart = starts[1:] - ends[:-1]
        first_of_block = np.zeros(len(starts), dtype=bool)
        first_of_block[begins] = True
        runs, pieces = first_of_block.copy(), first_of_block
        runs[1:] |= apart != 0
        pieces[1:] |= (apart < 0) | (apart > _APART)
        run, piece = np.flatnonzero(runs), np.flatnonzero(pieces)
        piece_starts = starts[piece]
        lengths = ends[np.append(piece[1:], len(starts)) - 1] - piece_starts
        asked = list(zip(piece_starts.tolist(), lengths.tolist(), strict=True))
        calls = zip(blocks, heads, _split(asked, np.searchsorted(piece, begins)), strict=True)
        read = self._all(functools.partial(self._parts, *call) for call in calls)
        parts_read = [part for parts in read for part in parts]
        if len(run) > len(piece):
            number = np.searchsorted(piece, run, side="right") - 1
            low = starts[run] - piece_starts[number]
            high = ends[np.append(run[1:], len(starts)) - 1] - piece_starts[number]
            cuts = zip(number.tolist(), low.tolist(), high.tolist(), strict=True)
            parts_read = [parts_read[number][start:stop] for number, start, stop in cuts]
        return bytes(parts_read[0]) if len(parts_read) == 1 else b"".join(parts_read)

    def _parts(
        self, block: int, head: _Head, asked: Sequence[tuple[int, int]]
    ) -> Sequence[bytes | memoryview]:
        try:
            return head.opened.read(asked)
        except Exception:
            with self._guard(block):
                raise


def _begins(values: Int64Array) -> Int64Array:
    """(m,) where runs of the same value begin in values (n,)."""
    return np.append(0, np.flatnonzero(values[1:] != values[:-1]) + 1)


def _split(values: Sequence[T], begins: Int64Array) -> list[Sequence[T]]:
    """Runs of values that begin at places (m,)."""
    ends = [*begins.tolist()[1:], len(values)]
    return [values[start:stop] for start, stop in zip(begins.tolist(), ends, strict=True)]


def _joined(parts: Sequence[Sequence[npt.NDArray[Any]]]) -> list[npt.NDArray[Any]]:
    """Tuples of arrays, array by array joined."""
    if len(parts) == 1:
        return list(parts[0])
    return [np.concatenate(each) for each in zip(*parts, strict=True)]
