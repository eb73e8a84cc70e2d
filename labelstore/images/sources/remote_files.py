"""The files of a source behind a URL, read in ranges."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, TypeVar

from labelstore.errors import LabelStoreError, NotFoundError, SourceError
from labelstore.storage.objects import RemoteObjects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["RemoteFiles", "remote_sizes"]

T = TypeVar("T")

_TAIL_BYTES = 2**16
"""Bytes of a remote file's end that are asked for together: as many as pyarrow wants of it."""


class RemoteFiles:
    """Objects below a URL, each with its size.

    Attributes:
        window: bytes to ask for at once where headers are looked for: enough for those of several
            small members, and little beside a photo.
        others: names of objects beside them that are of another kind.
    """

    window = 2**14

    def __init__(self, url: str, sizes: dict[str, int], others: Sequence[str] = ()) -> None:
        self.url = url
        self.others = list(others)
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

    def size(self, number: int) -> int:
        """Bytes of a file."""
        return self.sizes[self._names[number]]

    def open(self, number: int) -> Any:
        """A file to be read by libraries."""
        return _Ranged(self, number)

    def together(self, calls: Iterable[Callable[[], T]]) -> Iterator[T]:
        """What calls return, in order, several being under way at once."""
        return self._objects.together(calls)

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
        self._size = files.size(number)
        self._place = 0
        self._tail = b""
        self._parts: dict[int, bytes] = {}

    def hold(self, start: int, length: int) -> None:
        """Ask for a part, which then may be looked at, and is given away when it is read whole."""
        if start + length <= self._size:
            self._parts[start] = self._files.read(self._number, start, length)

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
        data = self._read(self._place, len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def _read(self, start: int, length: int) -> bytes:
        for held, part in self._parts.items():
            if held <= start and start + length <= held + len(part):
                if length == len(part):
                    del self._parts[held]
                return part[start - held :][:length]
        first = self._size - min(self._size, _TAIL_BYTES)
        if start < first:
            return self._files.read(self._number, start, length)
        # A footer is looked for in several places, one request for all of them.
        self._tail = self._tail or self._files.read(self._number, first, _TAIL_BYTES)
        return self._tail[start - first :][:length]


def remote_sizes(url: str) -> dict[str, int]:
    """Bytes of all objects below a URL, by name.

    Raises:
        SourceError: the server does not list its files. NotFoundError: there are none.
    """
    if not url.startswith(("s3://", "gs://")):
        raise SourceError(
            f"{url} cannot be listed over HTTP: give the URL of one .tar or .parquet file, a brace "
            "list of them, a folder of s3:// or gs://, or a copy here."
        )
    found = RemoteObjects(url).sizes([])
    if not found:
        raise NotFoundError(f"there is nothing at {url}: check the bucket and the prefix.")
    return found
