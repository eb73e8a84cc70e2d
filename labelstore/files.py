"""The one place where labelstore creates, syncs, renames, locks or deletes files.

What ``write_durably`` has returned from survives a crash of the process and, on file systems that
honour fsync, of the machine; what it had not returned from is either absent or whole.
"""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from labelstore.errors import BusyError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "delete_durably",
    "delete_file",
    "delete_tree",
    "exclusive_lock",
    "explained",
    "free_bytes",
    "make_directory",
    "remove_partials",
    "write_durably",
]

PARTIAL = ".partial"
"""Suffix of a file that is being written; readers never look at one."""

LOCK_NAME = ".lock"
"""Name of the file inside a store that its writer holds locked."""


def write_durably(path: Path, data: bytes | bytearray | memoryview) -> None:
    """Write a file: whole under its name, or not at all.

    A temporary file beside it is written, synced and renamed, and the folder is synced.

    Raises:
        StoreError: the system refuses, for example because the disk is full.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    with explained(path):
        make_directory(path.parent)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)


def make_directory(path: Path) -> None:
    """Make a folder and its parents, each synced into its parent; StoreError when refused."""
    if path.is_dir():
        return
    make_directory(path.parent)
    with explained(path):
        path.mkdir(exist_ok=True)
        _sync_directory(path.parent)


def delete_file(path: Path) -> None:
    """Delete a file if it is there; StoreError when refused."""
    with explained(path):
        path.unlink(missing_ok=True)


def delete_durably(path: Path) -> None:
    """Delete a file, if it is there, for good before this returns; StoreError when refused."""
    with explained(path):
        path.unlink(missing_ok=True)
        _sync_directory(path.parent)


def delete_tree(path: Path) -> None:
    """Delete a folder and all in it; StoreError when refused."""
    with explained(path):
        shutil.rmtree(path)


def remove_partials(root: Path) -> int:
    """Delete the temporary files that killed writers left below ``root``; returns how many."""
    found = list(root.rglob(f"*{PARTIAL}"))
    for path in found:
        delete_file(path)
    return len(found)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the system refuses into a StoreError with the mend."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; free space or mend its rights, then "
            "run the same command again: what was committed is untouched."
        ) from error


@contextmanager
def exclusive_lock(root: Path) -> Iterator[None]:
    """Hold the writer's lock of the store at ``root``; the system drops it if the process dies.

    Raises:
        BusyError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no flock; two writers there are the user's to avoid.
        yield
        return
    make_directory(root)
    with explained(root):
        file = (root / LOCK_NAME).open("ab")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                f"{root} is being written by another process: wait for it to end, or stop it."
            ) from error
        yield


def _sync_directory(path: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder to sync it.
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(path: Path) -> int:
    """Bytes that are free where a path lies, or will lie once it is made."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
