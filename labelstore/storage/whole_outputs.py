"""A file or folder that is made of many pieces: whole under its name, or not there at all.

It grows in a folder ``NAME.partial`` beside its place, under the writer's lock, and gets its name
when all of it is on the disk. What a killed writer leaves has the other name, and the next one
begins anew.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from labelstore.storage import local_files, locks, swaps
from labelstore.storage.local_files import explained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["PieceFile", "empty", "left_in", "mark", "replaced_in", "whole_output"]

_MARK = b"labelstore makes an output here\n"

_REPLACED = f".replaced{local_files.PARTIAL}"
"""What is added to the name of a folder that another one has replaced, until it is deleted."""


@contextmanager
def whole_output(
    place: Path,
    check: Callable[[], None],
    file: str | None = None,
    removed: Callable[[int], None] = lambda _: None,
) -> Iterator[Path]:
    """Make a folder, or a file, piece by piece; what raises on the way leaves what was there.

    Args:
        place: where it is to lie. What is there is replaced: ask before.
        check: raises where that must not be written; called again under the lock.
        file: the name of the one file in the folder that is to have the place; None for all of it.
        removed: called with how many files a killed run had left that are gone now, if any.

    Yields:
        an empty folder to make it in.

    Raises:
        BusyError: another process is making it. StoreError: the system refuses. What ``check`` and
        the body raise.
    """
    check()
    partial = place.with_name(place.name + local_files.PARTIAL)
    with locks.exclusive_lock(partial):
        try:
            left = _clear_replaced(place)
            check()
            left += empty(partial)
            mark(partial)
            if left:
                removed(left)
            yield partial
            _sync(partial)
            if file is None:
                _put(partial, place)
            else:
                local_files.publish(partial / file, place)
            with explained(place):
                local_files.sync_directory(place.absolute().parent)
        except BaseException:
            if partial.is_dir():
                local_files.delete_tree(partial)
            raise
        if file is None:
            # It came along, so that nobody took the folder for one that was left behind.
            local_files.delete_file(place / locks.LOCK_NAME)
        else:
            local_files.delete_tree(partial)


def empty(folder: Path) -> int:
    """Delete what is in a folder but for its lock; how many files it had."""
    count = 0
    for entry in folder.iterdir():
        if entry.name != locks.LOCK_NAME:
            count += _files_in(entry)
            (local_files.delete_tree if entry.is_dir() else local_files.delete_file)(entry)
    return count


def _files_in(entry: Path) -> int:
    """1 of a file, of a folder how many are in it."""
    if not entry.is_dir():
        return 1
    return sum(len(names) for _, _, names in os.walk(entry))


def _clear_replaced(place: Path) -> int:
    """Delete what was replaced by a run that was killed before it had done so; its files.

    Where that run had only taken it out of the way it gets its place back: it is all there is.
    """
    old = place.with_name(place.name + _REPLACED)
    if not old.exists():
        return 0
    if not place.exists():
        with explained(place):
            old.replace(place)
        return 0
    count = _files_in(old)
    local_files.delete_tree(old)
    return count


def _put(new: Path, place: Path) -> None:
    """Give a folder its place; what is there is out of the way first, and then deleted."""
    if not place.exists():
        local_files.publish(new, place)
        return
    old = place.with_name(place.name + _REPLACED)
    if old.exists():
        local_files.delete_tree(old)
    with explained(place):
        if swaps.exchange(new, place):
            new.replace(old)
        else:
            place.replace(old)
            new.replace(place)
    local_files.delete_tree(old)


def _sync(folder: Path) -> None:
    """Bring all files of a folder to the disk at once: one by one a million of them take hours."""
    if os.name == "nt":
        return
    with explained(folder):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
            if call is None:
                os.sync()
            elif call(descriptor):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(folder))
        finally:
            os.close(descriptor)


def mark(partial: Path) -> None:
    """Let the lock in a folder, which is held, say that an output is made in it; StoreError when
    refused."""
    lock = partial / locks.LOCK_NAME
    with explained(lock):
        lock.write_bytes(_MARK)


def left_in(folder: Path) -> list[Path]:
    """Folders ``*.partial`` in a folder that an output was, or is, made in, sorted: their lock says
    so, or is all they hold. A store's lock is empty. Who takes the lock knows that nobody is at
    work."""
    return sorted(
        entry
        for entry in folder.glob(f"*{local_files.PARTIAL}")
        if not entry.is_symlink() and entry.is_dir() and _is_marked(entry)
    )


def _is_marked(folder: Path) -> bool:
    lock = folder / locks.LOCK_NAME
    if lock.is_symlink() or not lock.is_file():
        return False
    size = lock.stat().st_size
    return (size == len(_MARK) and lock.read_bytes() == _MARK) or (
        size == 0 and len(list(folder.iterdir())) == 1
    )


def replaced_in(folder: Path, sign: str) -> list[Path]:
    """Folders in a folder that outputs have replaced and that were not deleted, sorted.

    Args:
        sign: the name of a file that tells them from other people's folders.
    """
    return sorted(
        entry
        for entry in folder.glob(f"*{_REPLACED}")
        if not entry.is_symlink()
        and (entry / sign).is_file()
        # Who has just replaced it is about to delete it, and its lock has come along.
        and not (entry.with_name(entry.name.removesuffix(_REPLACED)) / locks.LOCK_NAME).exists()
    )


class PieceFile:
    """A file that is written from its beginning to its end, by libraries that take a stream.

    What the system refuses is a StoreError that names the file, whoever asked for it.
    """

    def __init__(self, path: Path) -> None:
        """Make it; nothing may have the name.

        Raises:
            StoreError: the system refuses.
        """
        self._path = path
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("xb")
        self.closed = False
        """Whether it has been closed."""

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Add bytes; StoreError when refused."""
        with explained(self._path):
            return self._file.write(data)

    def tell(self) -> int:
        """How many bytes it has."""
        return self._file.tell()

    def flush(self) -> None:
        """Hand on what was written; StoreError when refused."""
        with explained(self._path):
            self._file.flush()

    def close(self) -> None:
        """Close it; StoreError when refused."""
        self.closed = True
        with explained(self._path):
            self._file.close()

    def readable(self) -> bool:
        """False."""
        return False

    def writable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """False: what was written stays."""
        return False
