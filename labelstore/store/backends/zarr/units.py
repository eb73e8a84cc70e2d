"""Reading labels that lie in units (``labelstore.format.unit_blocks``), wherever their objects are.

Nothing that is read here has been compared with digests: who asks holds the commits.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from labelstore.format.arrays import UNITS
from labelstore.format.unit_blocks import COUNT_BYTES, UnitBlocks, sizes_of
from labelstore.format.units.planes import Units
from labelstore.storage.untrusted import check_expansion, open_file

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest

    Codes = dict[str, npt.NDArray[Any]]
    Int64Array = npt.NDArray[np.int64]
    UInt64Array = npt.NDArray[np.uint64]

__all__ = [
    "BlockObject",
    "GroupUnits",
    "HeldObject",
    "UnitCodes",
    "UnitReads",
    "opened_file",
    "unit_object",
]

_APART = 4096
"""Units that lie so few bytes apart are read as one piece."""

_MOST_LABELS = 1 << 24
"""Labels of a unit are fewer."""

_MOST_KEPT = 2**25
"""Bytes of tables that are kept, about at most."""


def unit_object(block: int) -> str:
    """What a block's object is called."""
    return f"{UNITS}/c/{block}"


class BlockObject(Protocol):
    """The object of a block, open for reading."""

    @property
    def size(self) -> int:
        """Its bytes."""

    @property
    def version(self) -> object:
        """Another one where it may be another object now."""

    def read(self, places: Sequence[tuple[int, int]]) -> Sequence[bytes | memoryview]:
        """Several (start, length) of it; all lie inside."""


class HeldObject:
    """One that is in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self.size = len(data)
        self.version = object()

    def read(self, places: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Parts of it."""
        return [self._data[start : start + length] for start, length in places]


class _FileObject:
    """One in a file."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        state = os.fstat(file.fileno())
        self.size = state.st_size
        self.version: object = (state.st_ino, state.st_size, state.st_mtime_ns)

    def read(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Parts of it; ValueError where it was cut meanwhile."""
        parts = []
        for start, length in places:
            self._file.seek(start)
            data = self._file.read(length) or b""
            if len(data) != length:
                raise ValueError(f"{len(data)} bytes from byte {start} on, expected {length}")
            parts.append(data)
        return parts


@contextmanager
def opened_file(path: Path | str, root: Path | str) -> Iterator[_FileObject]:
    """A block's object in a file of the store at ``root``; FileNotFoundError where none is."""
    with open_file(path, root) as file:
        yield _FileObject(file)


class GroupUnits(NamedTuple):
    """Which units of a group of views are to be read."""

    block: int
    group: int
    numbers: Int64Array | None
    """(n,) of units, rising; None for all."""


@dataclass(frozen=True)
class UnitCodes:
    """Units that were read, and what the index says of them; not compared with anything."""

    codes: Codes
    """(sum of labels, ...) of all units, in order, by array name."""
    labels: Int64Array
    """(n,) labels of each unit."""
    rows: list[UInt64Array]
    """Of each group that was asked for the (units,) entries of all its units in the index."""


class _Read(NamedTuple):
    """The bytes of some groups' units of one block."""

    tables: bytes
    parts: list[bytes | memoryview]
    sizes: list[Int64Array]
    rows: list[UInt64Array]


class UnitReads:
    """Reads the units of one store's blocks; threads may do so together."""

    def __init__(
        self,
        manifest: Manifest,
        opened: Callable[[int], AbstractContextManager[BlockObject]],
        together: Callable[[Iterable[Callable[[], _Read]]], Iterator[_Read]],
        guard: Callable[[int], AbstractContextManager[None]],
    ) -> None:
        """Of a store.

        Args:
            manifest: of a store with units.
            opened: opens a block's object; FileNotFoundError where there is none.
            together: what calls return, in order, some of them perhaps at once.
            guard: makes of what decoding raises the error of a damaged block.
        """
        self.layout = UnitBlocks(manifest)
        self._manifest = manifest
        self._opened, self._together, self._guard = opened, together, guard
        self._tables: dict[int, tuple[object, bytes]] = {}
        self._kept_bytes = 0

    def forget(self) -> None:
        """Blocks may have been made again."""
        self._tables, self._kept_bytes = {}, 0

    def read(self, wanted: Sequence[GroupUnits], names: Sequence[str] | None = None) -> UnitCodes:
        """Units of some groups, blocks in rising order.

        Args:
            wanted: groups and units. names: of the arrays that are wanted; all when None.

        Raises:
            CorruptError: an object is not there, or not as it was written. StoreError: it cannot be
            read.
        """
        blocks: dict[int, list[GroupUnits]] = {}
        for entry in wanted:
            blocks.setdefault(entry.block, []).append(entry)
        calls = [self._reading(block, groups) for block, groups in blocks.items()]
        # A single block may be asked for by a thread of those who read together.
        parts = list(self._together(calls)) if len(calls) > 1 else [calls[0]()]
        try:
            return self._decoded(list(blocks.values()), parts, names)
        except ValueError:
            # One by one, to name the block that it is.
            for groups, part in zip(blocks.values(), parts, strict=True):
                with self._guard(groups[0].block):
                    self._decoded([groups], [part], names)
            raise

    def codes(
        self, block: int, groups: Sequence[int], names: Sequence[str] | None = None
    ) -> list[Codes]:
        """Codes (images, views, ...) of whole groups of a block, by array name; of all when None.

        Raises:
            As ``read``.
        """
        read = self.read([GroupUnits(block, group, None) for group in groups], names)
        return self.by_group(block, groups, read.codes)

    def by_group(self, block: int, groups: Sequence[int], codes: Codes) -> list[Codes]:
        """Codes (images, views, ...) by array name of each of some whole groups that were read."""
        rows = self._manifest.block_slice(block)
        images = rows.stop - rows.start
        found: list[Codes] = []
        end = 0
        for group in groups:
            columns = self._manifest.group_slice(group)
            views = columns.stop - columns.start
            start, end = end, end + images * views
            parts = {name: part[start:end] for name, part in codes.items()}
            found.append(
                {name: p.reshape(images, views, *p.shape[1:]) for name, p in parts.items()}
            )
        return found

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
                found = [chunks[group][name] for group in span]
                codes = found[0] if len(found) == 1 else np.concatenate(found, axis=1)
                begin = views.start - span.start * columns
                part.append(codes[inner, begin : begin + views.stop - views.start])
        return [part[0] if len(part) == 1 else np.concatenate(part) for part in parts]

    def _reading(self, block: int, groups: Sequence[GroupUnits]) -> Callable[[], _Read]:
        def call() -> _Read:
            with self._guard(block):
                try:
                    with self._opened(block) as opened:
                        return self._read_block(opened, block, groups)
                except FileNotFoundError as error:
                    raise ValueError("it is not there") from error

        return call

    def _read_block(self, opened: BlockObject, block: int, groups: Sequence[GroupUnits]) -> _Read:
        layout = self.layout
        index = opened.size - layout.index_bytes
        if index < COUNT_BYTES:
            raise ValueError(f"no index of {layout.index_bytes} bytes at its end")
        tables = self._tables_of(opened, block, index - COUNT_BYTES)
        end = index - COUNT_BYTES - len(tables)
        places = [(index + entry.group * layout.row_bytes, layout.row_bytes) for entry in groups]
        held = np.frombuffer(b"".join(opened.read(places)), "<u8").reshape(len(groups), -1)
        rows = held[:, 1 : 1 + layout.units_of(block)]
        every = sizes_of(rows)
        ends = np.cumsum(every, axis=1)
        first, most = held[:, 0], ends[:, -1]
        for bad in np.flatnonzero((first > end) | (first + most.astype(np.uint64) > end)).tolist():
            raise ValueError(f"units of {most[bad]} bytes at {first[bad]}, before byte {end}")
        ends += first.astype(np.int64)[:, np.newaxis]
        sizes, pieces = [], []
        for number, entry in enumerate(groups):
            which = slice(None) if entry.numbers is None else entry.numbers
            sizes.append(every[number, which])
            pieces += _pieces(ends[number, which], sizes[-1], entry.numbers is None)
        self._check_room(block, groups, sum(int(part.sum()) for part in sizes))
        data = opened.read([(start, stop - start) for start, stop, _ in pieces])
        parts: list[bytes | memoryview] = []
        for (start, _, inner), whole in zip(pieces, data, strict=True):
            if len(inner) == 1:
                parts.append(whole)
            else:
                parts += [whole[begin - start : stop - start] for begin, stop in inner]
        return _Read(tables, parts, sizes, list(rows))

    def _check_room(self, block: int, groups: Sequence[GroupUnits], stored: int) -> None:
        """Words of no bits make records of nothing."""
        rows = self._manifest.block_slice(block)
        count, views = rows.stop - rows.start, self._manifest.group_views
        most = min(self.layout.unit_images, count)
        images = sum(
            count if entry.numbers is None else most * len(entry.numbers) for entry in groups
        )
        views = min(views, self._manifest.num_views)
        if most * views >= _MOST_LABELS:
            raise ValueError(f"a unit of {most * views:,} labels")
        check_expansion(images * views * self.layout.code.record_bytes, stored)

    def _tables_of(self, opened: BlockObject, block: int, stop: int) -> bytes:
        """A block's tables, behind which their length is at byte ``stop``."""
        version, tables = self._tables.get(block, (None, None))
        if tables is not None and version == opened.version:
            return tables
        (data,) = opened.read([(stop, COUNT_BYTES)])
        length = int.from_bytes(data, "little")
        if length > min(stop, self.layout.tables_bytes):
            raise ValueError(f"tables of {length} bytes before byte {stop}")
        (data,) = opened.read([(stop - length, length)])
        tables = bytes(data)
        if self._kept_bytes > _MOST_KEPT:
            self.forget()
        self._kept_bytes += len(tables)
        self._tables[block] = opened.version, tables
        return tables

    def _decoded(
        self,
        blocks: Sequence[Sequence[GroupUnits]],
        parts: Sequence[_Read],
        names: Sequence[str] | None,
    ) -> UnitCodes:
        """The codes of what was read; ValueError where it is damaged."""
        labels, shards = [], []
        for shard, groups in enumerate(blocks):
            for entry in groups:
                every = self.layout.labels(entry.block, entry.group)
                labels.append(every if entry.numbers is None else every[entry.numbers])
                shards.append(np.full(len(labels[-1]), shard))
        counts = np.concatenate(labels)
        pieces = [piece for part in parts for piece in part.parts]
        sizes = np.concatenate([size for part in parts for size in part.sizes])
        data = bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)
        units = Units(data, sizes, counts, np.concatenate(shards))
        codes = self.layout.code.decode_arrays([part.tables for part in parts], units, names)
        return UnitCodes(codes, counts, [row for part in parts for row in part.rows])


def _pieces(
    ends: Int64Array, sizes: Int64Array, whole: bool
) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """What is read at once: start, end, and the (start, end) of what is wanted in it: of units, or
    of all of them as one."""
    if whole:
        start, stop = int(ends[0] - sizes[0]), int(ends[-1])
        return [(start, stop, [(start, stop)])]
    pieces: list[tuple[int, int, list[tuple[int, int]]]] = []
    for start, stop in zip((ends - sizes).tolist(), ends.tolist(), strict=True):
        if pieces and start - pieces[-1][1] <= _APART:
            first, _, inner = pieces[-1]
            pieces[-1] = (first, stop, [*inner, (start, stop)])
        else:
            pieces.append((start, stop, [(start, stop)]))
    return pieces
