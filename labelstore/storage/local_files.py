"""The one place where labelstore creates, syncs, renames, locks or deletes files.

What ``write_durably`` has returned from survives a crash of the process and, on file systems that
honour fsync, of the machine; what it had not returned from is either absent or whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from labelstore.errors import StoreError
from labelstore.storage import private_folders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

__all__ = [
    "delete_durably",
    "delete_empty",
    "delete_file",
    "delete_tree",
    "explained",
    "file_sizes",
    "free_bytes",
    "is_partial_file",
    "make_directory",
    "private_directory",
    "publish",
    "remove_partials",
    "second_name",
    "sync_directory",
    "total_bytes",
    "write_durably",
    "write_new",
    "write_private",
    "write_together",
    "write_whole",
]

PARTIAL = ".partial"

_PARTIAL_NAME = re.compile(r".+\.[0-9a-f]{32}" + re.escape(PARTIAL))
"""Suffix of a file that is being written; readers never look at one."""


def write_durably(path: Path, data: bytes | bytearray | memoryview) -> None:
    """Write a file: whole under its name, or not at all.

    A temporary file beside it is written, synced and renamed, and the folder is synced.

    Raises:
        StoreError: the system refuses, for example because the disk is full.
    """
    make_directory(path.parent)
    _write(path, data, sync=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that need not outlive a crash of the machine: whole under its name, or not.

    Raises:
        StoreError: the system refuses.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, data, sync=False)


def write_private(path: Path, *data: bytes | memoryview) -> None:
    """As ``write_whole``, of a file and a folder for this user alone; parts follow each other.

    Raises:
        StoreError: the system refuses, or others may write into the folder.
    """
    private_directory(path.parent)
    temporary = _beside(path)
    with explained(path):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            with os.fdopen(private_folders.open_file(temporary, flags), "wb") as file:
                file.writelines(data)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def write_new(path: Path, data: bytes) -> bool:
    """As ``write_durably``, where nothing has the name yet; else False, and what is there stays.

    Raises:
        StoreError: the system refuses.
    """
    make_directory(path.parent)
    temporary = _beside(path)
    with explained(path):
        try:
            _fill(temporary, data, sync=True)
            try:
                path.hardlink_to(temporary)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                # Not one step there, but the moment between them is short.
                if path.exists():
                    return False
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(path.parent)
    return True


def write_together(
    files: Mapping[Path, bytes | None], ready: Callable[[], None] = lambda: None
) -> None:
    """Write several files, or none: all are whole and on the disk before the first has its name.

    Args:
        files: what each is to hold; None for one that is to be gone.
        ready: called between; where it raises, everything is as it was.

    Raises:
        StoreError: the system refuses. What ``ready`` raises.
    """
    whole: dict[Path, Path] = {}
    try:
        for path, data in files.items():
            make_directory(path.parent)
            if data is None:
                continue
            whole[path] = _beside(path)
            with explained(path):
                _fill(whole[path], data, sync=True)
        ready()
        for path in files:
            with explained(path):
                if path in whole:
                    whole.pop(path).replace(path)
                else:
                    path.unlink(missing_ok=True)
        for folder in {path.parent for path in files}:
            with explained(folder):
                sync_directory(folder)
    finally:
        for temporary in whole.values():
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
"""What a file system says that has no hard links."""


def is_partial_file(path: Path) -> bool:
    """Whether a file of this name is one that was being written here, before it had its own."""
    return _PARTIAL_NAME.fullmatch(path.name) is not None


def _beside(path: Path) -> Path:
    """A name beside a file's, for while it is written."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")


def _fill(path: Path, data: bytes | bytearray | memoryview, sync: bool) -> None:
    with path.open("wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def _write(path: Path, data: bytes | bytearray | memoryview, sync: bool) -> None:
    temporary = _beside(path)
    with explained(path):
        try:
            _fill(temporary, data, sync)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        if sync:
            sync_directory(path.parent)


def make_directory(path: Path) -> None:
    """Make a folder and its parents, each synced into its parent; StoreError when refused."""
    if path.is_dir():
        return
    make_directory(path.parent)
    with explained(path):
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)


def second_name(path: Path, other: Path) -> None:
    """Give a file another name besides, or where the system cannot a copy; StoreError when
    refused."""
    make_directory(other.parent)
    with explained(other):
        try:
            other.hardlink_to(path)
        except OSError as error:
            if error.errno not in _NO_LINKS | {errno.EXDEV}:
                raise
            shutil.copyfile(path, other)


def delete_file(path: Path) -> None:
    """Delete a file if it is there; StoreError when refused."""
    with explained(path):
        path.unlink(missing_ok=True)


def delete_durably(path: Path) -> None:
    """Delete a file, if it is there, for good before this returns; StoreError when refused."""
    with explained(path):
        path.unlink(missing_ok=True)
        sync_directory(path.parent)


def delete_tree(path: Path) -> None:
    """Delete a folder and all in it; StoreError when refused."""
    with explained(path):
        shutil.rmtree(path)


def delete_empty(folder: Path, root: Path) -> None:
    """Delete a folder and those above it, below ``root``, as far as nothing is in them."""
    while folder != root and root in folder.parents:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def file_sizes(root: Path) -> dict[str, int]:
    """Bytes of the files below a folder, by their paths in it ("a/b"), but for those that a writer
    has not finished."""
    sizes: dict[str, int] = {}
    folders = [(os.fspath(root), "")]
    # Of ten thousands of files: os.walk, and the paths that it asks for, take twice as long.
    while folders:
        folder, inside = folders.pop()
        below = []
        try:
            entries = list(os.scandir(folder))
        except OSError:
            # What cannot be listed has nothing in it.
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                below.append((entry.path, f"{inside}{entry.name}/"))
            elif not entry.name.endswith(PARTIAL):
                # A link that leads nowhere, or a file that was deleted meanwhile, is none.
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    if stat.S_ISREG(status.st_mode):
                        sizes[f"{inside}{entry.name}"] = status.st_size
        folders += below[::-1]
    return sizes


def remove_partials(root: Path) -> int:
    """Delete the temporary files that killed writers left below ``root``; returns how many."""
    partials = [path for path in root.rglob(f"*{PARTIAL}") if not path.is_dir()]
    for path in partials:
        delete_file(path)
    return len(partials)


_REFUSALS = {
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOSPC,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
"""What the system says when it does not read, whatever is in the file."""


def refusal(path: Path | str, error: BaseException) -> StoreError | None:
    """What to raise where the system refused to read; None for errors that tell of the content."""
    if not isinstance(error, OSError) or error.errno not in _REFUSALS:
        return None
    return StoreError(
        f"{path} cannot be read: {os.strerror(error.errno)}; what is in it is not known: mend its "
        "rights, or what the system lacks, then try again."
    )


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the system's refusal to read into a StoreError with the mend."""
    try:
        yield
    except OSError as error:
        store_error = refusal(path, error)
        if store_error is None:
            raise
        raise store_error from error


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the system refuses into a StoreError with the mend."""
    try:
        yield
    except OSError as error:
        in_the_way = None
        if isinstance(error, IsADirectoryError):
            in_the_way = "a folder stands where a file has to be"
        elif isinstance(error, (FileExistsError, NotADirectoryError)):
            # Of a folder that is made, or of one above what is written.
            in_the_way = "a file stands where a folder has to be"
        if in_the_way:
            raise StoreError(
                f"cannot write {path}: {in_the_way} ({error.strerror}): choose another name."
            ) from error
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; free space or mend its rights, then "
            "run the same command again: what was committed is untouched."
        ) from error


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file still is the one of a name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def sync_directory(path: Path) -> None:
    """Bring a folder's names to the disk; OSError when refused."""
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


def total_bytes(path: Path) -> int:
    """Bytes of the file system of a folder, 0 where it is not there."""
    return shutil.disk_usage(path).total if path.is_dir() else 0


def publish(partial: Path, path: Path) -> None:
    """Give a file that is whole its name, in place of what has it; StoreError when refused."""
    with explained(path):
        partial.replace(path)


def private_directory(path: Path) -> None:
    """Make a folder that only this user may enter, or find it.

    Raises:
        StoreError: it is another user's, or others may write into it.
    """
    with explained(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if private_folders.is_private_folder(path):
            return
    raise StoreError(
        f"{path} belongs to another user, or others may write into it, or it is no folder: name a "
        "folder of your own, or take the rights of others away (chmod go-w)."
    )
