"""The Parquet backend behind a URL: footers are kept, and of row groups the columns are asked for.

A file's footer describes its row groups in some tens of kilobytes, and is asked for once.
"""

from __future__ import annotations

import functools
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from labelstore.format.arrays import commit_columns
from labelstore.storage.parquet.footer import OpenFile, footer_of
from labelstore.storage.parquet.pages import ranges_of
from labelstore.storage.remote.objects import RemoteObjects
from labelstore.storage.untrusted import DOCUMENT_BYTES, json_document
from labelstore.store.backends.held_objects import HeldObjects
from labelstore.store.backends.parquet.backend import (
    COMMITS,
    LABELS,
    MANIFEST,
    MEASURED,
    TABLE,
    UNPROVED_BYTES,
    ParquetBackend,
    block_file,
)
from labelstore.store.backends.remote_writing import RemoteWriting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy.typing as npt

__all__ = ["RemoteParquetBackend"]

_TAIL = 2**16
"""Bytes of a file's end that are asked for at first: pyarrow looks for the footer there."""

_FILE_BYTES = 2**32
"""Bytes of a block's file that is taken as a whole, at most."""

_FOOTERS = 256
"""Files whose footers are kept, at most."""


class _RangeFile(io.RawIOBase):
    """An object as a file: what is read is a range of it, but for the end, which is kept."""

    def __init__(self, objects: RemoteObjects, name: str, size: int, tail: bytes) -> None:
        super().__init__()
        self._objects, self._name = objects, name
        self._size, self._place = size, 0
        self._parts = [(size - len(tail), tail)]

    def hold(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Ask for ranges (start, length) together; what is read of them asks for nothing more."""
        # What a damaged file has behind its end is for the reader to miss.
        ranges = [(start, min(length, self._size - start)) for start, length in ranges]
        ranges = [part for part in ranges if part[1] > 0 and self._held(*part) is None]
        pieces = self._objects.get_ranges(self._name, ranges)
        self._parts += [(start, data) for (start, _), data in zip(ranges, pieces, strict=True)]

    def _held(self, start: int, length: int) -> bytes | None:
        for first, data in self._parts:
            if first <= start and start + length <= first + len(data):
                return data[start - first :][:length]
        return None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = start + offset
        return self._place

    def read(self, size: int = -1) -> bytes:
        stop = self._size if size < 0 else min(self._place + size, self._size)
        start, self._place = self._place, max(stop, self._place)
        if stop <= start:
            return b""
        data = self._held(start, stop - start)
        if data is not None:
            return data
        return self._objects.get_range(self._name, start, stop - start)


@dataclass(frozen=True)
class _RemoteFile(OpenFile):
    """A file of which what is to be read is asked for beforehand."""

    ranges: _RangeFile


class _Footer(NamedTuple):
    """What is kept of a file that was opened."""

    metadata: Any
    size: int
    footer: bytes


class RemoteParquetBackend(RemoteWriting, ParquetBackend):
    """One store behind a URL; see ``Backend`` for the methods' contracts."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._objects = RemoteObjects(url)
        self._footers: dict[str, _Footer] = {}
        self._held = HeldObjects[bytes]()

    def read_manifest(self) -> Any:
        return json_document(
            self._objects.get_first(MANIFEST, DOCUMENT_BYTES), self._where(MANIFEST)
        )

    def read_commits(self, blocks: Sequence[int] | None = None) -> npt.NDArray[np.uint64]:
        # What is committed is looked at anew, and blocks may have been made again.
        self._footers.clear()
        self._held.clear()
        self._numbered.clear()
        if self._manifest.num_blocks * commit_columns(self._manifest) * 8 > UNPROVED_BYTES:
            self.read_targets()
        every = range(self._manifest.num_blocks) if blocks is None else blocks
        calls = (functools.partial(self.read_commit, block) for block in every)
        return np.stack(list(self._objects.together(calls)))

    def read_many(
        self, runs: Iterable[tuple[str, slice, slice | None]]
    ) -> Iterator[npt.NDArray[Any]]:
        return self._objects.together(functools.partial(self.read, *run) for run in runs)

    def fetch_block(self, block: int) -> None:
        names = [block_file(folder, block) for folder in (MEASURED, LABELS)]
        calls = (functools.partial(self._bytes, name, _FILE_BYTES) for name in names)
        files = self._objects.together(calls)
        objects = zip(names, files, strict=True)
        self._held.hold(block, {name: data for name, data in objects if data is not None})

    def release_block(self, block: int) -> None:
        self._held.release(block)

    def _bytes(self, name: str, limit: int) -> bytes | None:
        try:
            return self._objects.get(name, limit)
        except FileNotFoundError:
            return None

    def _open(self, name: str, dictionaries: Sequence[str] = ()) -> OpenFile:
        """A file of this read alone: pyarrow's are for one thread at a time."""
        data = self._held.get(name)
        if data is not None:
            whole = pa.BufferReader(data)
            footer = footer_of(whole)
            opened = pq.ParquetFile(whole, page_checksum_verification=True)
            return OpenFile(opened, len(data), footer, whole)
        known = self._footers.get(name)
        tail = b""
        if known is None:
            tail, size = self._objects.get_suffix(name, _TAIL)
        else:
            size = known.size
        file = _RangeFile(self._objects, name, size, tail)
        source = pa.PythonFile(file, mode="r")
        footer = footer_of(source) if known is None else known.footer
        opened = pq.ParquetFile(
            source,
            metadata=None if known is None else known.metadata,
            read_dictionary=list(dictionaries),
            page_checksum_verification=True,
            pre_buffer=False,
        )
        if known is None:
            if len(self._footers) >= _FOOTERS:
                self._footers.clear()
            self._footers[name] = _Footer(opened.metadata, size, footer)
        return _RemoteFile(opened, size, footer, source, file)

    def _check_pages(self, opened: OpenFile, groups: Iterable[int], names: Sequence[str]) -> None:
        groups = list(groups)
        if isinstance(opened, _RemoteFile):
            opened.ranges.hold(ranges_of(opened.columns(groups, names)))
        super()._check_pages(opened, groups, names)

    def _labels(self, block: int) -> OpenFile:
        opened = self._open(block_file(LABELS, block))
        self._check_labels(block, opened)
        return opened

    def clear(self) -> None:
        """Delete all that is there; while this goes on, it is a store whose making was stopped."""
        opening = {"format": "labelstore", "state": "creating"}
        self._objects.clear(MANIFEST, json.dumps(opening).encode())

    def _write(self, name: str, data: bytes | memoryview) -> None:
        self._objects.put(name, bytes(data))

    def withdraw_commit(self, block: int) -> None:
        self._objects.delete(block_file(COMMITS, block))

    def _sizes(self) -> dict[str, int]:
        """Bytes of each file; where a server cannot list them, of those that a store has."""
        blocks = range(self._manifest.num_blocks)
        folders = (COMMITS, MEASURED, LABELS)
        names = [block_file(folder, block) for folder in folders for block in blocks]
        return self._objects.sizes([MANIFEST, TABLE, *names])
