"""The one place where labelstore creates, syncs, renames, locks or deletes files.

What ``write_durably`` has returned from survives a crash of the process and, on file systems that
honour fsync, of the machine; what it had not returned from is either absent or whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from labelstore import private
from labelstore.errors import BusyError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

__all__ = [
    "LOCK_NAMES",
    "Claim",
    "claim",
    "creation_lock",
    "delete_durably",
    "delete_file",
    "delete_tree",
    "exclusive_lock",
    "explained",
    "free_bytes",
    "make_directory",
    "private_directory",
    "publish",
    "remove_claims",
    "remove_partials",
    "shared_lock",
    "total_bytes",
    "write_durably",
    "write_new",
    "write_together",
    "write_whole",
]

PARTIAL = ".partial"
"""Suffix of a file that is being written; readers never look at one."""

LOCK_NAME = ".lock"
"""Name of the file inside a store that its writer holds locked."""

CREATION_NAME, CLAIMS_NAME = ".create", ".claims"
"""Of the file that is locked while one of several writers makes an empty store, and of the folder
with a file for each block that one of them has claimed."""

LOCK_NAMES = (LOCK_NAME, CREATION_NAME, CLAIMS_NAME)
"""What a store's folder holds besides the store while it is written."""

_SHARED_TRIES, _TRY_SECONDS = 20, 0.1


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
        _sync_directory(path.parent)
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
                _sync_directory(folder)
    finally:
        for temporary in whole.values():
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
"""What a file system says that has no hard links."""


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


def remove_claims(root: Path) -> None:
    """Delete what writers that shared the store at ``root`` have left of their locks; StoreError
    when refused."""
    delete_file(root / CREATION_NAME)
    shutil.rmtree(root / CLAIMS_NAME, ignore_errors=True)


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
        found = refusal(path, error)
        if found is None:
            raise
        raise found from error


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
def exclusive_lock(root: Path) -> Iterator[Claim | None]:
    """Hold the writer's lock of the store at ``root``; the system drops it if the process dies.

    It is None on a system without locks.

    Raises:
        BusyError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no flock; two writers there are the user's to avoid.
        yield None
        return
    while True:
        make_directory(root)
        with explained(root):
            file = (root / LOCK_NAME).open("ab")
        with file:
            try:
                _flock(file, root, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyError(
                    f"{root} is being written by another process: wait for it to end, or stop it."
                ) from error
            # Else the one who held it has ended, and moved or deleted it meanwhile.
            if is_at(file.fileno(), root / LOCK_NAME):
                yield Claim(file, root / LOCK_NAME)
                return


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file still is the one of a name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def shared_lock(root: Path) -> Iterator[None]:
    """Hold one of several writers' locks of the store at ``root``.

    The last one to leave removes what the writers' locks and deaths have left behind.

    Raises:
        BusyError: a single writer holds it. StoreError: the system has no locks.
    """
    fcntl = _locks(root)
    make_directory(root)
    with explained(root):
        file = (root / LOCK_NAME).open("ab")
    with file:
        # One that leaves last holds it alone for a moment.
        for _ in range(_SHARED_TRIES):
            try:
                _flock(file, root, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_TRY_SECONDS)
        else:
            raise BusyError(
                f"{root} is being written by a single process: wait for it to end, or stop it."
            )
        try:
            yield
        finally:
            # Others may still write; the last one finds nobody.
            with contextlib.suppress(BlockingIOError):
                _flock(file, root, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_partials(root)
                remove_claims(root)


@contextmanager
def creation_lock(root: Path) -> Iterator[None]:
    """Hold the right to make the empty store at ``root``; waits for who has it."""
    fcntl = _locks(root)
    with explained(root):
        file = (root / CREATION_NAME).open("ab")
    with file:
        _flock(file, root, fcntl.LOCK_EX)
        yield


class Claim:
    """A writer's right to a number; the system drops it if the process dies."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path

    def release(self, finished: bool) -> None:
        """Give it up; ``finished``: nobody will ask for this number again."""
        if finished:
            self._path.unlink(missing_ok=True)
        self._file.close()

    def holds(self) -> bool:
        """Whether it still is this writer's: leases of a file server may lapse."""
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return is_at(self._file.fileno(), self._path)
        except (OSError, ValueError):
            return False


def claim(root: Path, number: int) -> Claim | None:
    """Claim a number among the writers of the store at ``root``; None where another one has it.

    Whoever claims a number after another has finished with it gets it, too: look, once it is
    claimed, whether there is anything left to do.
    """
    fcntl = _locks(root)
    path = root / CLAIMS_NAME / str(number)
    make_directory(path.parent)
    with explained(path):
        file = path.open("ab")
    try:
        _flock(file, root, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return Claim(file, path)


def _flock(file: IO[bytes], root: Path, how: int) -> None:
    """Lock a file; BlockingIOError where another process has it."""
    import fcntl

    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        raise
    except OSError as error:
        raise StoreError(
            f"{root} lies on a file system without locks ({error.strerror or error}), and two "
            "writers could spoil a store there: write it to a local disk and copy it, or mount "
            "the file system with locks."
        ) from error


def _locks(root: Path) -> Any:
    """The module fcntl; StoreError where there is none."""
    try:
        import fcntl
    except ImportError as error:
        raise StoreError(
            f"{root} cannot be written by several processes here, this system has no file locks: "
            "write it with one."
        ) from error
    return fcntl


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
        if private.is_private_folder(path):
            return
    raise StoreError(
        f"{path} belongs to another user, or others may write into it, or it is no folder: name a "
        "folder of your own, or take the rights of others away (chmod go-w)."
    )
