"""Locks: one writer at a time, and claims by which several share the blocks of a store."""

from __future__ import annotations

import contextlib
import shutil
import time
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from labelstore.errors import BusyError, StoreError
from labelstore.storage.local_files import (
    delete_file,
    explained,
    is_at,
    make_directory,
    remove_partials,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "CLAIMS_NAME",
    "CREATION_NAME",
    "LOCK_NAME",
    "LOCK_NAMES",
    "Claim",
    "claim",
    "creation_lock",
    "exclusive_lock",
    "remove_claims",
    "shared_lock",
]

LOCK_NAME = ".lock"
"""Name of the file inside a store that its writer holds locked."""

CREATION_NAME, CLAIMS_NAME = ".create", ".claims"
"""Of the file that is locked while one of several writers makes an empty store, and of the folder
with a file for each block that one of them has claimed."""

LOCK_NAMES = (LOCK_NAME, CREATION_NAME, CLAIMS_NAME)
"""What a store's folder holds besides the store while it is written."""

_SHARED_TRIES, _TRY_SECONDS = 20, 0.1


def remove_claims(root: Path) -> None:
    """Delete what writers that shared the store at ``root`` have left of their locks; StoreError
    when refused."""
    delete_file(root / CREATION_NAME)
    shutil.rmtree(root / CLAIMS_NAME, ignore_errors=True)


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


@contextmanager
def shared_lock(root: Path) -> Iterator[None]:
    """Hold one of several writers' locks of the store at ``root``.

    The last one to leave removes what the writers' locks and deaths have left behind.

    Raises:
        BusyError: a single writer holds it. StoreError: the system has no locks.
    """
    fcntl = _locks(root)
    with _shared_file(root, fcntl) as file:
        try:
            yield
        finally:
            # Others may still write; the last one finds nobody.
            with contextlib.suppress(BlockingIOError):
                _flock(file, root, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_partials(root)
                remove_claims(root)


def _shared_file(root: Path, fcntl: Any) -> IO[bytes]:
    """The writer's lock, held with others."""
    # One that leaves last holds it alone for a moment.
    for _ in range(_SHARED_TRIES):
        make_directory(root)
        with explained(root):
            file = (root / LOCK_NAME).open("ab")
        try:
            _flock(file, root, fcntl.LOCK_SH | fcntl.LOCK_NB)
            # Else the one who held it has deleted it meanwhile.
            if is_at(file.fileno(), root / LOCK_NAME):
                return file
        except BlockingIOError:
            time.sleep(_TRY_SECONDS)
        except BaseException:
            file.close()
            raise
        file.close()
    raise BusyError(f"{root} is being written by a single process: wait for it to end, or stop it.")


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
