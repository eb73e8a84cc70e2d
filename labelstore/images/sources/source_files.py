"""The files of an image source, here or behind a URL: names, and bytes at any place."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, TypeVar

from labelstore.errors import LabelStoreError, SourceError
from labelstore.storage.remote.objects import RemoteObjects
from labelstore.storage.untrusted import open_descriptor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

__all__ = ["LocalFiles", "RemoteFiles", "SourceFiles"]

T = TypeVar("T")

_OPEN_FILES = 64
"""Files that are held open: of the 1,024 that a process may have, most are needed elsewhere."""

_SETTLED_NS = 2 * 10**9
"""How long after its last change a file's times tell it from any other state of it."""

_TAIL_BYTES = 2**16
"""Bytes of a remote file's end that are asked for together: as many as pyarrow wants of it."""


class _OpenFiles:
    """Descriptors of files that are read at random; the least recently used ones are closed."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._held: OrderedDict[int, int] = OrderedDict()
        self._users: dict[int, int] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def use(self, number: int) -> Iterator[int]:
        """The descriptor of a file, which stays open meanwhile."""
        with self._lock:
            if number not in self._held:
                self._held[number] = open_descriptor(self._paths[number])
            self._held.move_to_end(number)
            self._users[number] = self._users.get(number, 0) + 1
        try:
            yield self._held[number]
        finally:
            with self._lock:
                self._users[number] -= 1
                if not self._users[number]:
                    del self._users[number]
                spare = len(self._held) - _OPEN_FILES
                unused = [idle for idle in self._held if idle not in self._users]
                for idle in unused[: max(spare, 0)]:
                    os.close(self._held.pop(idle))

    def close(self, close: Callable[[int], None] = os.close) -> None:
        """Close all; also when Python ends and has taken ``os`` away already."""
        while self._held:
            close(self._held.popitem()[1])


class LocalFiles:
    """Files of a folder, any number of them: few are open at a time.

    Attributes:
        window: bytes to read at once where headers are looked for.
        others: names of files beside them that are of another kind.
    """

    window = 2**12

    def __init__(self, paths: Sequence[Path], others: Sequence[str] = ()) -> None:
        self.paths = list(paths)
        self.others = list(others)
        self._open = _OpenFiles(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getstate__(self) -> list[Path]:
        """Without open files, for another process."""
        return self.paths

    def __setstate__(self, paths: list[Path]) -> None:
        LocalFiles.__init__(self, paths)

    def __del__(self) -> None:
        if hasattr(self, "_open"):
            self._open.close()

    def place(self, number: int) -> str:
        """Where a file lies, for messages."""
        return str(self.paths[number])

    def name(self, number: int) -> str:
        """A file's own name."""
        return self.paths[number].name

    def size(self, number: int) -> int:
        """Bytes of a file. OSError when it cannot be looked at."""
        return self.paths[number].stat().st_size

    def open(self, number: int) -> Any:
        """A file to be read by libraries: its path. OSError when it is no file that can be read."""
        os.close(open_descriptor(self.paths[number]))
        return self.paths[number]

    def read(self, number: int, start: int, length: int) -> bytes:
        """Bytes of a file; fewer where it ends. OSError when it cannot be read."""
        with self._open.use(number) as descriptor:
            return os.pread(descriptor, length, start)

    @contextlib.contextmanager
    def reading(self, number: int) -> Iterator[Callable[[int, int], bytes]]:
        """``read`` of one file, for many small reads."""
        with self._open.use(number) as descriptor:
            yield lambda start, length: os.pread(descriptor, length, start)

    def identity(self, number: int) -> tuple[str, ...] | None:
        """What changes when a file does: path, bytes, times, inode; None of one written just now.

        A write within the clock's tick of the one before might not show in the times.
        """
        path = os.path.realpath(self.paths[number])
        state = os.stat(path)
        if time.time_ns() - state.st_mtime_ns < _SETTLED_NS:
            return None
        facts = (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)
        return (os.fsencode(path).decode("utf-8", "backslashreplace"), *map(str, facts))

    def together(self, calls: Iterable[Callable[[], T]]) -> Iterator[T]:
        """What calls return, in order."""
        return (call() for call in calls)


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

    @contextlib.contextmanager
    def reading(self, number: int) -> Iterator[Callable[[int, int], bytes]]:
        """``read`` of one file, for many small reads."""
        yield functools.partial(self.read, number)

    def identity(self, number: int) -> tuple[str, ...] | None:
        """What changes when a file does: URL, bytes and the server's tag; None where it has none.

        OSError when it cannot be asked.
        """
        name = self._names[number]
        try:
            tag = self._objects.tag(name)
        except LabelStoreError as error:
            raise OSError(str(error)) from error
        facts = [f"{part}={value}" for part, value in sorted(tag.items())]
        return (self.place(number), str(self.sizes[name]), *facts) if facts else None

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
        for begin, part in self._parts.items():
            if begin <= start and start + length <= begin + len(part):
                if length == len(part):
                    del self._parts[begin]
                return part[start - begin :][:length]
        first = self._size - min(self._size, _TAIL_BYTES)
        if start < first:
            return self._files.read(self._number, start, length)
        # A footer is looked for in several places, one request for all of them.
        self._tail = self._tail or self._files.read(self._number, first, _TAIL_BYTES)
        return self._tail[start - first :][:length]


SourceFiles = LocalFiles | RemoteFiles
"""Of either kind."""
