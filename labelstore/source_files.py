"""The files of an image source, in a folder or behind a URL: names, and bytes at any place."""

from __future__ import annotations

import contextlib
import fnmatch
import io
import os
import re
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from labelstore.errors import LabelStoreError, NotFoundError, SourceError
from labelstore.file_patterns import expand_braces, is_pattern
from labelstore.foreign import open_descriptor
from labelstore.objects import place_of
from labelstore.remote import RemoteObjects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = [
    "LocalFiles",
    "RemoteFiles",
    "SourceFiles",
    "files_at",
    "remote_sizes",
    "walk",
]

T = TypeVar("T")

_OPEN_FILES = 64
"""Files that are held open: of the 1,024 that a process may have, most are needed elsewhere."""


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
                unused = [held for held in self._held if held not in self._users]
                for held in unused[: max(spare, 0)]:
                    os.close(self._held.pop(held))

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


SourceFiles = LocalFiles | RemoteFiles
"""Of either kind."""


def files_at(path: str | os.PathLike[str], suffix: str) -> SourceFiles:
    """The files of one suffix at a path or URL, sorted by name.

    Args:
        path: a file; a folder, whose own files are meant, or if it has none those of its
            subfolders (a snapshot of a hub); or a pattern of files (``is_pattern``).
        suffix: such as ``".tar"``.

    Raises:
        NotFoundError: nothing is there, or a file of a brace list is missing. UsageError: the URL
            is of a kind that is not read. SourceError: it is a folder of a server that does not
            list its files.
    """
    place = place_of(path)
    if isinstance(place, str):
        return _remote(place, suffix)
    if os.path.lexists(place) and not place.is_dir():
        # Of what is no file, reading tells.
        return LocalFiles([place])
    if is_pattern(place):
        return LocalFiles(_matching(place))
    if not place.exists():
        raise NotFoundError(f"there is nothing at {place}: give a file or a folder of files.")
    entries = {entry.name: entry for entry in place.iterdir()}
    names = sorted(name for name, entry in entries.items() if not entry.is_dir())
    if any(name.endswith(suffix) for name in names):
        # A folder of a shard's name beside shards is a shard that was exchanged: reading tells.
        names = sorted({*names, *(name for name in entries if name.endswith(suffix))})
    else:
        names = sorted(walk(place))
    names = [name for name in names if not name.startswith(".")]
    return LocalFiles(
        [place / name for name in names if name.endswith(suffix)],
        [name for name in names if not name.endswith(suffix)],
    )


def walk(
    folder: Path, prefix: str = "", above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[str]:
    """Relative POSIX paths of all files below a folder that are not hidden, in no order.

    Links to folders are followed, loops are cut. Pipes, devices and links to nothing are named,
    too.

    Args:
        folder: where to look.
        prefix: what the paths begin with.
        above: device and inode of the folders that are being walked.

    Raises:
        SourceError: a folder cannot be listed.
    """
    try:
        status = folder.stat()
        with os.scandir(folder) as listing:
            entries = list(listing)
    except OSError as error:
        raise SourceError(
            f"cannot list the folder {folder} ({error.strerror or error}): make it readable or "
            "move it away."
        ) from error
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            yield from walk(Path(entry.path), f"{prefix}{entry.name}/", above | {identity})
        # What is no file, or a link to nothing, is kept, to fail by name when it is read.
        else:
            yield prefix + entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself.
        return False


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


def _matching(pattern: Path) -> list[Path]:
    """The files of a glob or a brace list here, each once, sorted by name within each brace."""
    files: dict[Path, None] = {}
    for name in expand_braces(str(pattern)):
        path = Path(name)
        if re.search(r"[*?[]", name) is None or path.exists():
            found = [path] if os.path.lexists(path) else []
        else:
            found = sorted(_glob(path))
        if not found:
            raise NotFoundError(
                f"there is no file {name} (of {pattern}): correct the pattern, or restore the file."
            )
        files |= dict.fromkeys(found)
    return list(files)


def _glob(pattern: Path) -> Iterator[Path]:
    anchor = Path(pattern.anchor) if pattern.is_absolute() else Path()
    return anchor.glob(str(pattern.relative_to(anchor) if pattern.is_absolute() else pattern))


def _remote(url: str, suffix: str) -> RemoteFiles:
    if is_pattern(url):
        return _remote_matching(url)
    if url.endswith(suffix):
        folder, _, name = url.rpartition("/")
        sizes = RemoteObjects(folder).sizes_of([name])
        if not sizes:
            raise NotFoundError(f"there is nothing at {url}: check the URL.")
        return RemoteFiles(folder, sizes)
    found = remote_sizes(url)
    own = {name: size for name, size in found.items() if "/" not in name}
    if any(name.endswith(suffix) for name in own):
        found = own
    return RemoteFiles(
        url,
        {name: size for name, size in found.items() if name.endswith(suffix)},
        [name for name in found if not name.endswith(suffix)],
    )


def _remote_matching(url: str) -> RemoteFiles:
    """The objects of a glob or a brace list; the folder before the first sign is looked into."""
    start = re.search(r"[*?[{]", url)
    folder = url[: start.start() if start else len(url)].rpartition("/")[0]
    wanted = [name[len(folder) + 1 :] for name in expand_braces(url)]
    if any(re.search(r"[*?[]", name) for name in wanted):
        sizes = remote_sizes(folder)
    else:
        sizes = RemoteObjects(folder).sizes_of(wanted)
    chosen: dict[str, int] = {}
    for pattern in wanted:
        names = [pattern] if pattern in sizes else fnmatch.filter(sizes, pattern)
        # As in a folder, a star does not cross a slash.
        names = [name for name in names if name.count("/") == pattern.count("/")]
        if not names:
            raise NotFoundError(
                f"there is nothing at {folder}/{pattern} (of {url}): correct the pattern, or "
                "restore the object."
            )
        chosen |= {name: sizes[name] for name in names}
    return RemoteFiles(folder, chosen)
