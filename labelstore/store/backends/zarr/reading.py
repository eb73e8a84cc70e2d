"""Arrays of a Zarr store, read from its objects; nothing is compared with commits here."""

from __future__ import annotations

import contextlib
import functools
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import CorruptError, FormatError, LabelStoreError
from labelstore.format.arrays import UNITS, side_by_side
from labelstore.format.blocks import StoredObject
from labelstore.storage import local_files
from labelstore.storage.untrusted import (
    DOCUMENT_BYTES,
    check_expansion,
    folder_in,
    json_document,
    parsed,
    read_manifest,
)
from labelstore.store.backends.zarr.arrays import ATTRIBUTE, COMMITS, DESCRIPTION, KEYS, TARGETS
from labelstore.store.backends.zarr.many_chunks import decode_files
from labelstore.store.backends.zarr.metadata import ArrayLayout, array_document, array_layouts
from labelstore.store.backends.zarr.objects import ZarrObjects
from labelstore.store.backends.zarr.shards import (
    chunk_bytes,
    chunks_in,
    decode,
    decode_bare,
    decode_strings,
    filled,
    read_chunks,
    shard_bytes,
)
from labelstore.store.backends.zarr.unit_objects import (
    BlockObject,
    FileObject,
    HeldObject,
    unit_object,
)
from labelstore.store.backends.zarr.units import UnitReads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest
    from labelstore.format.settings import Encoding

__all__ = ["ZarrReads"]

_TABLE_BYTES = 2**31
"""Bytes of a chunk of keys or of targets, at most: blosc knows no larger ones."""

_UNPROVED_BYTES, _SPARSE_BYTES = 2**20, 2**29
"""Bytes of commit rows that are looked for before the images are known to be there, and that may
nearly all be missing."""


class ZarrReads(ZarrObjects):
    """Reads one store in a local folder; see ``Backend`` for the methods' contracts."""

    encoding: Encoding = "codes"

    def read_manifest(self) -> Any:
        with local_files.readable(Path(self.path, DESCRIPTION)):
            return self._parse_manifest(read_manifest(Path(self.path), DESCRIPTION))

    def _parse_manifest(self, data: bytes) -> Any:
        document = json_document(data, f"{self.path}/{DESCRIPTION}")
        attributes = document.get("attributes") if isinstance(document, dict) else None
        if not isinstance(attributes, dict):
            raise FormatError(
                f"{self.path} is not a labelstore store (its zarr.json has no manifest): name a "
                "folder that labelstore made."
            )
        return attributes.get(ATTRIBUTE)

    def open_arrays(self, manifest: Manifest) -> None:
        self._open_arrays(manifest)

    def _open_arrays(self, manifest: Manifest) -> dict[str, Any]:
        """As ``open_arrays``; the document that describes each array, which fits its layout."""
        if manifest.encoding != self.encoding:
            raise CorruptError(
                f"{self.path}: the manifest says encoding {manifest.encoding!r}, expected "
                f"{self.encoding!r} in Zarr: zarr.json was exchanged; restore it from a copy."
            )
        layouts = array_layouts(manifest)
        calls = [functools.partial(self._check_array, *entry) for entry in layouts.items()]
        documents = dict(zip(layouts, self._together(calls), strict=True))
        self._layouts = layouts
        self.units = None
        if manifest.unit_images is not None:
            units = UnitReads(manifest, self._unit_objects, self._together, self._guard_units)
            with parsed(f"{self.path}/{DESCRIPTION}"):
                _ = units.layout.code
            self.units = units
        return documents

    def _check_array(self, name: str, expected: ArrayLayout) -> Any:
        """An array's description; CorruptError unless it says what its manifest implies."""
        where = f"{self.path}/{name}/{DESCRIPTION}"
        with parsed(where):
            data = self._object_bytes(f"{name}/{DESCRIPTION}", DOCUMENT_BYTES)
            if data is None:
                raise ValueError("it is not there")
            return array_document(data, expected)

    def read_keys(self) -> tuple[str, ...]:
        array = self._layouts[KEYS]
        keys: list[str] = []
        with self._guard(KEYS, ...):
            for data in self._table(KEYS):
                chunk_keys = decode_strings(data, array.rows)[: array.shape[0] - len(keys)]
                # Here, too: before a multitude of them takes memory.
                if len(set(chunk_keys)) < len(chunk_keys):
                    raise ValueError("two images have the same key")
                keys += chunk_keys
        return tuple(keys)

    def read_targets(self) -> npt.NDArray[np.int32]:
        array, dtype = self._layouts[TARGETS], np.dtype("<i4")
        with self._guard(TARGETS, ...):
            parts = [decode(data, array.chunks, dtype) for data in self._table(TARGETS)]
            return np.concatenate(parts)[: array.shape[0]].astype(np.int32)

    def _table(self, name: str) -> Iterator[bytes]:
        """The bytes of all chunks of keys or of targets, in order."""
        array = self._layouts[name]
        chunks = range(-(-array.shape[0] // array.rows))
        names = (self._object_name(name, chunk) for chunk in chunks)
        calls = (functools.partial(self._object_bytes, part, _TABLE_BYTES) for part in names)
        for chunk, data in zip(chunks, self._together(calls), strict=True):
            if data is None:
                raise ValueError(f"part {chunk} of {len(chunks)} is not there")
            yield data

    def read_commits(self, blocks: Sequence[int] | None = None) -> npt.NDArray[np.uint64]:
        if self.units is not None:
            self.units.forget(blocks)
        array = self._layouts[COMMITS]
        shape = (array.shape[0] if blocks is None else len(blocks), array.shape[1])
        row_bytes = shape[1] * 8
        if shape[0] * row_bytes > _UNPROVED_BYTES:
            # So many images must be there before so many blocks are looked for.
            self.read_targets()
        with self._guard(COMMITS, ...):
            every = range(shape[0]) if blocks is None else blocks
            objects = enumerate(self._commit_objects(every))
            row_of = {place: self._row(data) for place, data in objects if data is not None}
            if shape[0] * row_bytes > _SPARSE_BYTES:
                check_expansion(shape[0] * row_bytes, len(row_of) * row_bytes)
            rows = np.zeros(shape, dtype=np.uint64)
        for place, row in row_of.items():
            rows[place] = row
        return rows

    def read_commit(self, block: int) -> npt.NDArray[np.uint64]:
        with self._guard(COMMITS, slice(block, block + 1)):
            data = self._object_bytes(self._object_name(COMMITS, block), self._row_bytes)
            if data is None:
                return np.zeros(self._layouts[COMMITS].shape[1], np.uint64)
            return self._row(data)

    def _commit_objects(self, blocks: Sequence[int]) -> Iterator[bytes | None]:
        """The bytes of blocks' commit rows; None where there is none."""
        folder, most = f"{COMMITS}/c", self._row_bytes
        with self._files_of(folder) as opened:
            for block in blocks:
                yield self._bytes_in(opened, folder, f"{block}/0", most)

    @property
    def _row_bytes(self) -> int:
        """Bytes of the object of a commit row, at most."""
        return chunk_bytes(self._layouts[COMMITS].chunks, np.dtype("<u8"))

    def _row(self, data: bytes) -> npt.NDArray[np.uint64]:
        """(columns,) a commit row from the bytes of its object."""
        chunks = self._layouts[COMMITS].chunks
        row: npt.NDArray[np.uint64] = decode_bare(data, chunks, np.dtype("<u8"))[0]
        return row

    def read(self, name: str, images: slice, views: slice | None) -> npt.NDArray[Any]:
        if views is not None and self.units is not None:
            return self.units.runs(images, [(name, views)])[0]
        rows = self._layouts[name].rows
        blocks = range(images.start // rows, -(-images.stop // rows))
        selection = images if views is None else (images, views)
        if views is not None and len(blocks) > 1 and images.start % rows == 0:
            together = self._decoded_together(name, blocks, views)
            if together is not None:
                return together[: images.stop - images.start, : views.stop - views.start]
        with self._guard(name, selection):
            parts = []
            for block in blocks:
                start = max(images.start - block * rows, 0)
                inner = slice(start, min(images.stop - block * rows, rows))
                parts.append(
                    self._read_rows(name, block)[inner]
                    if views is None
                    else self._read_groups(name, block, inner, views)
                )
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _decoded_together(
        self, name: str, blocks: Sequence[int], views: slice
    ) -> npt.NDArray[Any] | None:
        """Whole chunks of one group of some blocks, one behind the other; None where each block has
        to be looked at."""
        array = self._layouts[name]
        group, first = divmod(views.start, array.chunks[1])
        shards = [self._object_name(name, block) for block in blocks]
        held = any(self._held.get(shard) is not None for shard in shards)
        if held or first or views.stop - views.start > array.chunks[1]:
            return None
        folder = f"{name}/c"
        with folder_in(f"{self.path}/{folder}", str(self.path)) as descriptor:
            if descriptor is None:
                return None
            names = [shard[len(folder) + 1 :] for shard in shards]
            layout = (group, array.count), array.chunks, array.dtype
            chunks = decode_files(descriptor, names, *layout)
        return None if chunks is None else chunks.reshape(-1, *array.chunks[1:])

    def _read_rows(self, name: str, block: int) -> npt.NDArray[Any]:
        """A block of an array without views."""
        array = self._layouts[name]
        most = chunk_bytes(array.chunks, array.dtype)
        data = self._object_bytes(self._object_name(name, block), most)
        if data is None:
            return filled(array.chunks, array.dtype, array.fill, 0)
        return decode(data, array.chunks, array.dtype)

    def read_many(
        self, runs: Iterable[tuple[str, slice, slice | None]]
    ) -> Iterator[npt.NDArray[Any]]:
        requests = list(runs)
        if self._are_rows(requests):
            yield from self._rows_of([(name, images) for name, images, _ in requests])
            return
        # Chunks of one shard are read together: its index is read and checked once. So are all
        # arrays of a block that lie in units.
        alike: dict[object, list[int]] = defaultdict(list)
        for place, (name, images, views) in enumerate(requests):
            if views is not None and self.units is not None:
                alike[UNITS, images.start, images.stop].append(place)
            elif views is not None and self._is_chunk(name, images, views):
                alike[name, images.start].append(place)
            else:
                alike[place].append(place)
        calls = [
            functools.partial(self._read_alike, [requests[place] for place in places])
            for places in alike.values()
        ]
        answers = zip(alike.values(), self._together(calls), strict=True)
        ready: dict[int, npt.NDArray[Any]] = {}
        for place in range(len(requests)):
            while place not in ready:
                places, parts = next(answers)
                ready.update(zip(places, parts, strict=True))
            yield ready.pop(place)

    def _are_rows(self, runs: Sequence[tuple[str, slice, slice | None]]) -> bool:
        """Whether several runs are each of one block of an array without views."""
        if len(runs) < 2 or any(views is not None for _, _, views in runs):
            return False
        rows = {name: self._layouts[name].rows for name in {name for name, _, _ in runs}}
        return all(
            images.start % rows[name] == 0 and images.stop - images.start <= rows[name]
            for name, images, _ in runs
        )

    def _rows_of(self, runs: Sequence[tuple[str, slice]]) -> Iterator[npt.NDArray[Any]]:
        """Blocks of arrays without views; those of which the bytes are like those of the array's
        last one, as where all images have labels, are decoded once."""
        last: dict[str, tuple[bytes, npt.NDArray[Any]]] = {}
        with contextlib.ExitStack() as folders:
            opened = {
                name: folders.enter_context(self._files_of(f"{name}/c"))
                for name in dict.fromkeys(name for name, _ in runs)
            }
            for name, images in runs:
                array = self._layouts[name]
                try:
                    file = self._object_name(name, images.start // array.rows)[len(name) + 3 :]
                    most = chunk_bytes(array.chunks, array.dtype)
                    data = self._bytes_in(opened[name], f"{name}/c", file, most)
                    if data is None:
                        last[name] = b"", filled(array.chunks, array.dtype, array.fill, 0)
                    elif name not in last or data != last[name][0]:
                        last[name] = data, decode(data, array.chunks, array.dtype)
                except Exception:
                    # As a rule there is none; to be guarded takes as long as to be read.
                    with self._guard(name, images):
                        raise
                yield last[name][1][: images.stop - images.start]

    def _read_alike(
        self, runs: Sequence[tuple[str, slice, slice | None]]
    ) -> list[npt.NDArray[Any]]:
        """One run of any kind, or chunks of one shard, or of the same images in units."""
        name, images, first = runs[0]
        if first is not None and self.units is not None:
            return self.units.runs(images, [(name, views) for name, _, views in runs if views])
        if first is None or not self._is_chunk(name, images, first):
            return [self.read(*runs[0])]
        array = self._layouts[name]
        columns = [views for _, _, views in runs if views]
        groups = [views.start // array.chunks[1] for views in columns]
        with self._guard(name, (images, columns[0])):
            codes = self._read_chunks(name, images.start // array.rows, groups)
        return [
            part[: run.stop - run.start, : views.stop - views.start]
            for part, (_, run, _), views in zip(codes, runs, columns, strict=True)
        ]

    @contextmanager
    def _unit_objects(self) -> Iterator[Callable[[int, int], BlockObject]]:
        """What opens the objects of blocks' units, of whose ends so many bytes are wanted;
        FileNotFoundError where there is none."""
        with self._files_of(f"{UNITS}/c") as opened:

            def by_block(block: int, tail: int) -> BlockObject:
                data = self._held.get(unit_object(block))
                return FileObject(*opened(str(block)), tail) if data is None else HeldObject(data)

            yield by_block

    def _guard_units(self, block: int) -> AbstractContextManager[None]:
        manifest = self.units and self.units.layout.manifest
        return self._guard(UNITS, manifest.block_slice(block) if manifest else ...)

    def _is_chunk(self, name: str, images: slice, views: slice) -> bool:
        """Whether runs of images and views are of one chunk, from its beginning."""
        rows, columns = self._layouts[name].chunks[:2]
        return bool(
            images.start % rows == 0
            and views.start % columns == 0
            and 0 < images.stop - images.start <= rows
            and 0 < views.stop - views.start <= columns
        )

    def fetch_block(self, block: int) -> None:
        """Nothing to do: the block is here."""

    def hold_block(self, block: int, groups: int | None = None) -> dict[str, StoredObject]:
        objects: dict[str, bytes] = {}
        for name, limit in self._block_limits().items():
            # What cannot be read is told of where its codes are asked for.
            with contextlib.suppress(OSError, LabelStoreError):
                data = self._object_bytes(self._object_name(name, block), limit)
                if data is not None:
                    objects[name] = data
        return self._hold(block, objects)

    def _hold(self, block: int, objects: Mapping[str, bytes]) -> dict[str, StoredObject]:
        """Keep the objects of a block, by array name, until they have been read."""
        self._held.hold(block, {self._object_name(name, block): objects[name] for name in objects})
        # An index of units is compared with its digests where units are read, not with the block.
        return {
            name: self._stored_object(name, data) for name, data in objects.items() if name != UNITS
        }

    def _stored_object(self, name: str, data: bytes) -> StoredObject:
        array = self._layouts[name]
        return StoredObject(data, array.chunks, array.count, array.fill)

    def _block_limits(self) -> dict[str, int]:
        """Bytes that the object of a block has at most, by array name."""
        tables = {KEYS, TARGETS, COMMITS}
        limits = {
            name: shard_bytes(array.count, array.chunks, array.dtype)
            for name, array in self._layouts.items()
            if name not in tables
        }
        return limits if self.units is None else {**limits, UNITS: self.units.layout.object_bytes}

    def release_block(self, block: int) -> None:
        self._held.release(block)

    def _read_groups(self, name: str, block: int, rows: slice, views: slice) -> npt.NDArray[Any]:
        """Codes of rows of a block and a run of views, chunk by chunk."""
        columns = self._layouts[name].chunks[1]
        first, last = views.start // columns, -(-views.stop // columns)
        parts = self._read_chunks(name, block, range(first, last))
        codes = side_by_side(parts)
        start = views.start - first * columns
        return codes[rows, start : start + views.stop - views.start]

    def _read_chunks(self, name: str, block: int, groups: Sequence[int]) -> list[npt.NDArray[Any]]:
        """The chunks of some groups of a shard."""
        array = self._layouts[name]
        shard = self._object_name(name, block)
        layout = groups, array.count, array.chunks, array.dtype, array.fill
        data = self._held.get(shard)
        if data is not None:
            return chunks_in(HeldObject(data), *layout)
        return read_chunks(f"{self.path}/{shard}", self.path, *layout)
