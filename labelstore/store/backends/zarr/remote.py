"""The Zarr backend behind a URL: the same store, read in few requests and several at a time.

A request takes tens of milliseconds whatever it brings. So the index of a shard is asked for once
and kept, a group of views is then one range of each shard, and the ranges that a read needs are
under way together. Objects are written whole or not at all, which a PUT is by itself.
"""

from __future__ import annotations

import functools
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from labelstore.format.arrays import UNITS
from labelstore.storage.remote.objects import RemoteObjects
from labelstore.storage.untrusted import DOCUMENT_BYTES, check_expansion
from labelstore.store.backends.held_objects import HeldObjects
from labelstore.store.backends.remote_writing import RemoteWriting
from labelstore.store.backends.zarr.arrays import ATTRIBUTE, COMMITS, DESCRIPTION
from labelstore.store.backends.zarr.backend import ZarrBackend
from labelstore.store.backends.zarr.shard_writing import shard_of
from labelstore.store.backends.zarr.shards import (
    chunk_bytes,
    decode,
    entry,
    filled,
    index_bytes,
    parse_index,
    shard_bytes,
)
from labelstore.store.backends.zarr.unit_objects import HeldObject, unit_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

    from labelstore.format.blocks import StoredObject
    from labelstore.store.backends.zarr.metadata import ArrayLayout
    from labelstore.store.backends.zarr.unit_objects import BlockObject

__all__ = ["RemoteZarrBackend"]

T = TypeVar("T")

_TAIL = 2**18
"""Bytes of the end of an object of units that are asked for at once: as a rule index and tables."""

_MOST_TAILS = 2**26
"""Bytes of such ends that are kept, about at most."""


class _RangesObject:
    """The object of a block's units, of which parts are asked for; its end is here."""

    def __init__(self, objects: RemoteObjects, name: str, tail: bytes, size: int) -> None:
        self._objects, self._name, self._tail = objects, name, tail
        self.size = size
        self.version: object | None = size

    def read(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Parts of it, under way together."""
        first = self.size - len(self._tail)
        away = [place for place in places if place[0] < first]
        pieces = dict(zip(away, self._objects.get_ranges(self._name, away), strict=True))
        return [
            pieces[start, length]
            if start < first
            else self._tail[start - first : start - first + length]
            for start, length in places
        ]

    def close(self) -> None:
        """Nothing is open."""


class RemoteZarrBackend(RemoteWriting, ZarrBackend):
    """One store behind a URL; see ``Backend`` for the methods' contracts."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._objects = RemoteObjects(url)
        self._chunks = HeldObjects[list[bytes | None]]()
        """The first chunks of shards of blocks that are held, where others are not wanted."""
        self._indexes: dict[str, tuple[npt.NDArray[np.uint64], int]] = {}
        self._tails: dict[str, tuple[bytes, int]] = {}
        """The ends of objects of units, and the sizes of the whole."""

    def read_manifest(self) -> Any:
        return self._parse_manifest(self._objects.get_first(DESCRIPTION, DOCUMENT_BYTES))

    def _put(self, name: str, data: bytes) -> None:
        self._objects.put(name, data)

    def read_commits(self, blocks: Sequence[int] | None = None) -> npt.NDArray[np.uint64]:
        # What is committed is looked at anew, and blocks may have been made again.
        self._indexes.clear()
        self._held.clear()
        self._chunks.clear()
        if blocks is None:
            self._tails = {}
        for block in blocks or ():
            self._tails.pop(unit_object(block), None)
        return super().read_commits(blocks)

    def _together(self, calls: Iterable[Callable[[], T]]) -> Iterator[T]:
        return self._objects.together(calls)

    def _object_bytes(self, name: str, limit: int) -> bytes | None:
        data = self._held.get(name)
        if data is not None:
            return data
        try:
            return self._objects.get(name, limit)
        except FileNotFoundError:
            return None

    def fetch_block(self, block: int) -> None:
        self.hold_block(block)

    def hold_block(self, block: int, groups: int | None = None) -> dict[str, StoredObject]:
        if groups is not None:
            return self._hold_groups(block, groups)
        limits = self._block_limits()
        calls = (
            functools.partial(self._object_bytes, self._object_name(name, block), limit)
            for name, limit in limits.items()
        )
        answers = zip(limits, self._objects.together(calls), strict=True)
        objects = {name: data for name, data in answers if data is not None}
        return self._hold(block, objects)

    def _hold_groups(self, block: int, groups: int) -> dict[str, StoredObject]:
        """As ``hold_block``: ranges of shards, and whole what has no views."""
        # Units are read by ranges where they are asked for, and encoded anew.
        limits = {name: most for name, most in self._block_limits().items() if name != UNITS}

        def read(name: str) -> bytes | list[bytes | None] | None:
            if self._layouts[name].count > 1:
                return self._first_chunks(name, block, groups)
            return self._object_bytes(self._object_name(name, block), limits[name])

        objects: dict[str, bytes] = {}
        chunks: dict[str, list[bytes | None]] = {}
        calls = (functools.partial(read, name) for name in limits)
        for name, content in zip(limits, self._objects.together(calls), strict=True):
            if isinstance(content, list):
                chunks[name] = content
            elif content is not None:
                objects[name] = content
        self._chunks.hold(block, {self._object_name(name, block): chunks[name] for name in chunks})
        shards = {
            name: shard_of(parts, self._layouts[name].count) for name, parts in chunks.items()
        }
        return self._hold(block, objects) | {
            name: self._stored_object(name, data) for name, data in shards.items() if data
        }

    def _first_chunks(self, name: str, block: int, groups: int) -> list[bytes | None]:
        """The bytes of a shard's chunks of the first groups of views; None for missing ones."""
        array = self._layouts[name]
        images = slice(block * array.rows, min((block + 1) * array.rows, array.shape[0]))
        with self._guard(name, (images, slice(0, groups * array.chunks[1]))):
            return self._chunks_of(self._object_name(name, block), range(groups), array)

    def release_block(self, block: int) -> None:
        super().release_block(block)
        self._chunks.release(block)

    def _commit_objects(self, blocks: Sequence[int]) -> Iterator[bytes | None]:
        names = (self._object_name(COMMITS, block) for block in blocks)
        most = self._row_bytes
        return self._together(functools.partial(self._object_bytes, n, most) for n in names)

    def _rows_of(self, runs: Sequence[tuple[str, slice]]) -> Iterator[npt.NDArray[Any]]:
        return self._together(functools.partial(self.read, *run, None) for run in runs)

    @contextmanager
    def _unit_objects(self) -> Iterator[Callable[[int, int], BlockObject]]:
        yield self._open_units

    def _open_units(self, block: int, tail: int) -> BlockObject:
        name = unit_object(block)
        data = self._held.get(name)
        if data is not None:
            return HeldObject(data)
        end = self._tails.get(name)
        if end is None:
            end = self._objects.get_suffix(name, min(tail, _TAIL))
            if sum(len(data) for data, _ in self._tails.values()) > _MOST_TAILS:
                self._tails = {}
            self._tails[name] = end
        return _RangesObject(self._objects, name, *end)

    def _decoded_together(
        self, name: str, blocks: Sequence[int], views: slice
    ) -> npt.NDArray[Any] | None:
        return None

    def _read_chunks(self, name: str, block: int, groups: Sequence[int]) -> list[npt.NDArray[Any]]:
        array = self._layouts[name]
        parts = self._chunks_of(self._object_name(name, block), groups, array)
        return [
            filled(array.chunks, array.dtype, array.fill, 0)
            if data is None
            else decode(data, array.chunks, array.dtype)
            for data in parts
        ]

    def _chunks_of(
        self, shard: str, groups: Sequence[int], array: ArrayLayout
    ) -> list[bytes | None]:
        """As ``_ranges``, of a shard that may not be there."""
        try:
            return self._ranges(shard, groups, array)
        except FileNotFoundError:
            return [None] * len(groups)

    def _ranges(self, shard: str, groups: Sequence[int], array: ArrayLayout) -> list[bytes | None]:
        """The bytes of some chunks of a shard; None for one that is not there."""
        chunks = self._chunks.get(shard)
        if chunks is not None and max(groups) < len(chunks):
            return [chunks[group] for group in groups]
        whole = self._held.get(shard)
        if whole is None and len(set(groups)) == array.count > 1:
            most = shard_bytes(array.count, array.chunks, array.dtype)
            whole = self._objects.get(shard, most)
        index, start = self._index(shard, array.count, whole)
        most = chunk_bytes(array.chunks, array.dtype)
        check_expansion(len(groups) * most, start)
        places = [entry(index, group, start, most) for group in groups]
        if whole is not None:
            return [place and whole[place[0] : sum(place)] for place in places]
        distinct = sorted({place for place in places if place is not None})
        runs: list[list[tuple[int, int]]] = []
        for place in distinct:
            # Chunks that lie side by side are one request.
            if runs and place[0] == sum(runs[-1][-1]):
                runs[-1].append(place)
            else:
                runs.append([place])
        asked = [(run[0][0], sum(run[-1]) - run[0][0]) for run in runs]
        data: dict[tuple[int, int], bytes] = {}
        for run, run_bytes in zip(runs, self._objects.get_ranges(shard, asked), strict=True):
            first = run[0][0]
            data |= {place: run_bytes[place[0] - first : sum(place) - first] for place in run}
        return [place and data[place] for place in places]

    def _index(
        self, shard: str, count: int, whole: bytes | None
    ) -> tuple[npt.NDArray[np.uint64], int]:
        """A shard's index and the byte at which it starts."""
        if whole is None and shard in self._indexes:
            return self._indexes[shard]
        length = index_bytes(count)
        data, end = (
            self._objects.get_suffix(shard, length)
            if whole is None
            else (whole[-length:], len(whole))
        )
        if len(data) != length:
            raise ValueError(f"{end} bytes, expected an index of {length}")
        index = parse_index(data), end - length
        self._indexes[shard] = index
        return index

    def clear(self) -> None:
        """Delete all that is there; while this goes on, it is a store whose making was stopped."""
        opening = {ATTRIBUTE: {"format": "labelstore", "state": "creating"}}
        document = {"zarr_format": 3, "node_type": "group", "attributes": opening}
        self._objects.clear(DESCRIPTION, json.dumps(document).encode())

    def withdraw_commit(self, block: int) -> None:
        self._objects.delete(self._object_name(COMMITS, block))

    def _sizes(self) -> dict[str, int]:
        """Bytes of each object; where a server cannot list them, of those that a store has."""
        names = [DESCRIPTION, *(f"{name}/{DESCRIPTION}" for name in self._layouts)]
        for name, array in self._layouts.items():
            objects = range(-(-array.shape[0] // array.rows))
            names += [self._object_name(name, number) for number in objects]
        if self.units is not None:
            blocks = range(self.units.layout.manifest.num_blocks)
            names += [unit_object(block) for block in blocks]
        return self._objects.sizes(names)
