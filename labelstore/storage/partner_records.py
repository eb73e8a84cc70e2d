"""What a store's folder keeps, until the store is complete, of the files its views were mixed with.

A label of a mixed view shows two photos. The digest of each is kept beside its own labels, which
may be made long after it was mixed into those of others. So whoever commits a block first writes
here which files it has read. A record is a small file below ``.partners`` that is written once;
each writer has names of its own, so that several do not meet.
"""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from labelstore.errors import CorruptError
from labelstore.storage import local_files
from labelstore.storage.location import place_of
from labelstore.storage.remote.objects import RemoteObjects

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    import numpy.typing as npt

__all__ = ["PARTNERS_NAME", "PartnerRecords"]

PARTNERS_NAME = ".partners"
"""Name of the folder of records inside a store."""

_MAGIC = b"labelstore-partners-1\n"
_NAME = re.compile(r"[0-9a-f]{32}-[0-9]+")
_WRITABLE = ("s3://", "gs://")
"""Where stores are written, and records with them; elsewhere objects cannot be listed."""


class PartnerRecords:
    """The records of one store, and of one process that may write some."""

    def __init__(self, path: str | os.PathLike[str], identity: str) -> None:
        """Of a store that is there.

        Args:
            path: its folder or URL.
            identity: its manifest's id; records of another one are damaged ones.
        """
        place = place_of(path)
        self._folder = place / PARTNERS_NAME if isinstance(place, Path) else None
        self._url = place if isinstance(place, str) and place.startswith(_WRITABLE) else None
        self._objects: RemoteObjects | None = None
        self._identity = identity
        self._token = uuid.uuid4().hex
        self._seen: set[str] = set()
        self._written = 0

    def are_there(self) -> bool:
        """Whether there is any."""
        return bool(self._names())

    def news(self) -> Iterator[npt.NDArray[np.uint64]]:
        """What others have written since this was asked last.

        Yields:
            (n, 2) uint64: positions of images, and the digests of their files.

        Raises:
            CorruptError: a record is damaged. StoreError: it cannot be read.
        """
        for name in self._names():
            if name in self._seen:
                continue
            try:
                data = self._get(name)
            except FileNotFoundError:  # withdrawn, or the store is complete
                continue
            rows = self._decoded(name, data)
            self._seen.add(name)
            yield rows

    def write(self, rows: npt.NDArray[np.uint64]) -> str:
        """Write a record; it survives a crash once this returns.

        Args:
            rows: as ``news`` yields them.

        Returns:
            its name.

        Raises:
            StoreError: the system refuses.
        """
        name = f"{self._token}-{self._written}"
        self._written += 1
        body = np.ascontiguousarray(rows, dtype="<u8").tobytes()
        data = _MAGIC + self._digest(body) + body
        self._seen.add(name)
        if self._folder is not None:
            local_files.write_durably(self._folder / name, data)
        elif self._url is not None:
            self._remote(self._url).put(f"{PARTNERS_NAME}/{name}", data)
        return name

    def withdraw(self, name: str) -> None:
        """Delete a record whose block was not committed."""
        if self._folder is not None:
            local_files.delete_durably(self._folder / name)
        elif self._url is not None:
            self._remote(self._url).delete(f"{PARTNERS_NAME}/{name}")

    def clear(self) -> None:
        """Delete all records: the store holds the digests of all its photos now."""
        for name in self._names():
            if self._folder is not None:
                local_files.delete_file(self._folder / name)
            elif self._url is not None:
                self._remote(self._url).delete(f"{PARTNERS_NAME}/{name}")
        if self._folder is not None:
            local_files.delete_empty(self._folder, self._folder.parent)

    def _names(self) -> list[str]:
        if self._folder is not None:
            try:
                with local_files.readable(self._folder):
                    names = [path.name for path in self._folder.iterdir()]
            except (FileNotFoundError, NotADirectoryError):
                return []
        elif self._url is not None:
            below = f"{PARTNERS_NAME}/"
            names = [name.removeprefix(below) for name in self._remote(self._url).below(below)]
        else:
            return []
        return sorted(filter(_NAME.fullmatch, names))

    def _get(self, name: str) -> bytes:
        if self._folder is not None:
            try:
                with local_files.readable(self._folder / name):
                    return (self._folder / name).read_bytes()
            except IsADirectoryError:
                return b""
        return self._remote(str(self._url)).get(f"{PARTNERS_NAME}/{name}")

    def _decoded(self, name: str, data: bytes) -> npt.NDArray[np.uint64]:
        start = len(_MAGIC) + 16
        body = data[start:]
        if data[:start] != _MAGIC + self._digest(body) or len(body) % 16:
            place = self._url if self._folder is None else self._folder.parent
            raise CorruptError(
                f"{place}/{PARTNERS_NAME}/{name} is damaged ({len(data)} bytes, not what was "
                "written), and it told which files of photos views were mixed with: if you are "
                "sure that no photo has changed since the store was begun, delete it and run the "
                "same command again; else make the store anew."
            )
        return np.frombuffer(body, dtype="<u8").astype(np.uint64).reshape(-1, 2)

    def _digest(self, body: bytes) -> bytes:
        return xxhash.xxh3_128_digest(self._identity.encode() + b"\0" + body)

    def _remote(self, url: str) -> RemoteObjects:
        if self._objects is None:
            self._objects = RemoteObjects(url)
        return self._objects
