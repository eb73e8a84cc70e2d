"""The files of an image source, in a folder or behind a URL: names, and bytes at any place."""

from __future__ import annotations

import io
import os
import threading
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from labelstore.errors import LabelStoreError, NotFoundError, SourceError
from labelstore.objects import place_of
from labelstore.remote import RemoteObjects

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["LocalFiles", "RemoteFiles", "SourceFiles", "files_at", "remote_sizes"]

_BUFFER_BYTES = 8 * 2**20
"""Of one request, where a remote file is read from its beginning to its end."""


class LocalFiles:
    """Files of a folder."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self._open: dict[int, int] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.paths)

    def __getstate__(self) -> list[Path]:
        """Without open files, for another process."""
        return self.paths

    def __setstate__(self, paths: list[Path]) -> None:
        LocalFiles.__init__(self, paths)

    def __del__(self) -> None:
        for descriptor in getattr(self, "_open", {}).values():
            os.close(descriptor)

    def place(self, number: int) -> str:
        """Where a file lies, for messages."""
        return str(self.paths[number])

    def name(self, number: int) -> str:
        """A file's own name."""
        return self.paths[number].name

    def open(self, number: int) -> Any:
        """A file to be read by libraries: its path."""
        return self.paths[number]

    def stream(self, number: int) -> BinaryIO:
        """A file to be read from its beginning."""
        return self.paths[number].open("rb")

    def read(self, number: int, start: int, length: int) -> bytes:
        """Bytes of a file; fewer where it ends. OSError when it cannot be read."""
        with self._lock:
            if number not in self._open:
                self._open[number] = os.open(self.paths[number], os.O_RDONLY)
        return os.pread(self._open[number], length, start)


class RemoteFiles:
    """Objects below a URL, each with its size."""

    def __init__(self, url: str, sizes: dict[str, int]) -> None:
        self.url = url
        self.sizes = sizes
        self._names = sorted(sizes)
        self._objects = RemoteObjects(url)

    def __len__(self) -> int:
        return len(self._names)

    def __getstate__(self) -> tuple[str, dict[str, int]]:
        """For another process, which asks for itself."""
        return self.url, self.sizes

    def __setstate__(self, state: tuple[str, dict[str, int]]) -> None:
        RemoteFiles.__init__(self, *state)

    def place(self, number: int) -> str:
        """Where a file lies, for messages."""
        return f"{self.url}/{self._names[number]}"

    def name(self, number: int) -> str:
        """A file's own name."""
        return self._names[number].rpartition("/")[2]

    def open(self, number: int) -> Any:
        """A file to be read by libraries."""
        return _Ranged(self, number)

    def stream(self, number: int) -> BinaryIO:
        """A file to be read from its beginning."""
        return cast("BinaryIO", io.BufferedReader(_Ranged(self, number), _BUFFER_BYTES))

    def read(self, number: int, start: int, length: int) -> bytes:
        """Bytes of a file; fewer where it ends. OSError when it cannot be read."""
        name = self._names[number]
        length = min(length, self.sizes[name] - start)
        if length <= 0:
            return b""
        try:
            return self._objects.get_range(name, start, length)
        except LabelStoreError as error:
            raise OSError(str(error)) from error

    def whole(self, number: int) -> bytes:
        """All of a file; SourceError when it cannot be read."""
        try:
            return self._objects.get(self._names[number])
        except (OSError, LabelStoreError) as error:
            raise SourceError(
                f"cannot read the image {self.place(number)} ({error}): restore the object or the "
                "right to read it."
            ) from error


class _Ranged(io.RawIOBase):
    """A remote file as Python's files are."""

    def __init__(self, files: RemoteFiles, number: int) -> None:
        self._files = files
        self._number = number
        self._size = files.sizes[files._names[number]]
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(start + offset, 0)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        data = self._files.read(self._number, self._place, len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


SourceFiles = LocalFiles | RemoteFiles
"""Of either kind."""


def files_at(path: str | os.PathLike[str], suffix: str) -> SourceFiles:
    """The file at a path or URL, or the files of that suffix in the folder there, sorted by name.

    Raises:
        NotFoundError: nothing is there. UsageError: the URL is of a kind that is not read.
        SourceError: it is a folder of a server that does not list its files.
    """
    place = place_of(path)
    if isinstance(place, str):
        return _remote(place, suffix)
    if not place.exists():
        raise NotFoundError(f"there is nothing at {place}: give a file or a folder of files.")
    return LocalFiles([place] if place.is_file() else sorted(place.glob(f"*{suffix}")))


def remote_sizes(url: str) -> dict[str, int]:
    """Bytes of all objects below a URL, by name.

    Raises:
        SourceError: the server does not list its files. NotFoundError: there are none.
    """
    if not url.startswith(("s3://", "gs://")):
        raise SourceError(
            f"{url} cannot be listed over HTTP: give the URL of one .tar or .parquet file, a "
            "folder of s3:// or gs://, or a copy here."
        )
    found = RemoteObjects(url).sizes([])
    if not found:
        raise NotFoundError(f"there is nothing at {url}: check the bucket and the prefix.")
    return found


def _remote(url: str, suffix: str) -> RemoteFiles:
    if url.endswith(suffix):
        folder, _, name = url.rpartition("/")
        sizes = RemoteObjects(folder).sizes_of([name])
        if not sizes:
            raise NotFoundError(f"there is nothing at {url}: check the URL.")
        return RemoteFiles(folder, sizes)
    found = remote_sizes(url)
    return RemoteFiles(url, {name: size for name, size in found.items() if name.endswith(suffix)})
