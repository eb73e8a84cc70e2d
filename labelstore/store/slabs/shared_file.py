"""Arrays that all processes of a machine read and one of them makes: mapped files under locks.

A file is written under a partial name by the process that holds its lock, and gets its own name
when it is whole; its name and its header follow from what it holds and from this start of the
machine, so nothing else is ever taken for it. Every process that maps one holds a shared lock on
it, which the system drops when the process dies, however it dies: a file that nobody has locked is
needed by nobody, and the last to close it, or the next to make one, deletes it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import mmap
import os
import tempfile
import time
from multiprocessing import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.storage import local_files, private_folders
from labelstore.store.slabs import property_locks
from labelstore.store.slabs.file_layout import SUFFIX

try:
    import fcntl
except ImportError:  # Windows has no flock: nothing is shared there.
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from labelstore.store.slabs.file_layout import Layout

__all__ = [
    "SharedArrays",
    "SharedFileWriter",
    "default_folder",
    "find",
    "make",
    "sweep",
    "unused",
    "used",
]

_WAIT_SECONDS = 0.005
_making: set[int] = set()
"""Descriptors of files that threads of this process are filling."""

_SPARE = 1.05
"""Room that must be free, as a multiple of what is to be written."""


def default_folder(nbytes: int) -> Path:
    """Where files of so many bytes in all are shared.

    The folder of the variable LABELSTORE_SLABS; else one in memory (``/dev/shm``), where the system
    has it and it is large enough as a whole; else one among the temporary files, which stay in
    memory as long as the system has room for them. In a place of all users a folder of this user's.
    """
    named = os.environ.get("LABELSTORE_SLABS")
    if named:
        place = Path(named)
        return _own_folder(place) if private_folders.is_shared_place(place) else place
    memory = Path("/dev/shm")
    root = Path(tempfile.gettempdir())
    if os.access(memory, os.W_OK) and local_files.total_bytes(memory) >= nbytes:
        root = memory
    return _own_folder(root)


def _own_folder(root: Path) -> Path:
    return private_folders.folder_below(root, "labelstore")


class SharedArrays:
    """A whole file, mapped for reading. Close it when it is no longer needed."""

    def __init__(self, path: Path, descriptor: int, layout: Layout) -> None:
        """Take over a descriptor that holds the shared lock."""
        self.path = path
        self.nbytes = layout.nbytes
        self._descriptor, self._process = descriptor, os.getpid()
        # A mapping keeps its descriptor open: one of its own, so that the lock can be given up.
        other = private_folders.open_file(path, os.O_RDONLY)
        try:
            if not os.path.sameopenfile(descriptor, other):
                raise FileNotFoundError(errno.ENOENT, "replaced while it was opened", str(path))
            mapped = mmap.mmap(other, layout.nbytes, prot=mmap.PROT_READ)
        finally:
            os.close(other)
        self.arrays: dict[str, npt.NDArray[Any]] = {
            name: np.frombuffer(mapped, dtype, math.prod(shape), layout.offsets[name]).reshape(
                shape
            )
            for name, dtype, shape in layout.arrays
        }
        # At the end of a process this comes after its worker processes have been ended.
        self._release = util.Finalize(self, _release, (path, descriptor), exitpriority=-10)
        _sweep_at_exit(path.parent)

    def close(self) -> None:
        """Give it up; the last process to do so deletes the file. What still holds the arrays may
        read them: their memory is freed with them."""
        if os.getpid() == self._process:
            self._release()
        elif self._descriptor >= 0:
            # Inherited by a fork: the finalizer is the parent's.
            descriptor, self._descriptor = self._descriptor, -1
            _release(self.path, descriptor)


class SharedFileWriter:
    """Fills a file that is being made; may be used by several threads."""

    def __init__(self, descriptor: int, layout: Layout) -> None:
        self._descriptor = descriptor
        self._layout = layout
        self._row_bytes = {
            name: math.prod(shape[1:]) * dtype.itemsize for name, dtype, shape in layout.arrays
        }

    def put(self, name: str, row: int, values: npt.NDArray[Any]) -> None:
        """Write rows of an array, from ``row`` on."""
        data = np.ascontiguousarray(values).data.cast("B")
        place = self._layout.offsets[name] + row * self._row_bytes[name]
        _write(self._descriptor, data, place)


def find(folder: Path, layout: Layout) -> SharedArrays | None:
    """Map a file that is there and whole; None when there is none."""
    path = folder / layout.name
    if fcntl is None:
        return None
    try:
        descriptor = private_folders.open_file(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        state = os.fstat(descriptor)
        if (
            state.st_nlink
            and state.st_size == layout.nbytes
            and os.pread(descriptor, len(layout.header), 0) == layout.header
        ):
            arrays = SharedArrays(path, descriptor, layout)
            descriptor = -1
            return arrays
    except OSError:
        return None
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return None


def make(
    folder: Path,
    layout: Layout,
    fill: Callable[[SharedFileWriter], None],
    go_on: Callable[[], None] = lambda: None,
) -> SharedArrays:
    """Map a file, made by this process when it is not there; one that another makes is awaited.

    Args:
        folder: where it lies; made when it is not there.
        layout: what it holds.
        fill: writes the arrays; what it raises leaves nothing behind.
        go_on: called while another process is awaited; what it raises ends the waiting.

    Raises:
        OSError, StoreError: the system refuses: no room, no rights, no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOTSUP, "this system has no file locks")
    local_files.private_directory(folder)
    sweep(folder)
    partial = folder / f"{layout.name}{local_files.PARTIAL}"
    while True:
        arrays = find(folder, layout)
        if arrays is not None:
            return arrays
        descriptor = _opened(partial)
        if descriptor is None:
            continue
        try:
            if not _locked(descriptor):
                go_on()
                time.sleep(_WAIT_SECONDS)
                continue
            # Who holds the lock of the file under this name is its only writer; it may have been
            # finished, or swept away, between the opening and the lock.
            if not local_files.is_at(descriptor, partial):
                continue
            arrays = find(folder, layout)
            if arrays is not None:
                local_files.delete_file(partial)
                return arrays
            arrays = _make(folder, layout, partial, descriptor, fill)
            descriptor = -1
            return arrays
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _opened(partial: Path) -> int | None:
    """A descriptor of a file that is being made, by this process or another one of this user; None
    where it has gone meanwhile."""
    try:
        return private_folders.open_file(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        pass
    try:
        return private_folders.open_file(partial, os.O_RDWR)
    except FileNotFoundError:
        return None
    except private_folders.ForeignFileError:
        # From a time when others could write here. Nobody fills it, and nobody waits for it.
        local_files.delete_file(partial)
        return None


def _make(
    folder: Path,
    layout: Layout,
    partial: Path,
    descriptor: int,
    fill: Callable[[SharedFileWriter], None],
) -> SharedArrays:
    try:
        room = os.statvfs(folder)
        if room.f_bavail * room.f_frsize < layout.nbytes * _SPARE:
            raise OSError(
                errno.ENOSPC, f"{layout.nbytes} bytes are needed and less is free", str(folder)
            )
        _making.add(descriptor)
        os.ftruncate(descriptor, 0)
        os.ftruncate(descriptor, layout.nbytes)
        fill(SharedFileWriter(descriptor, layout))
        _write(descriptor, memoryview(layout.header), 0)
        local_files.publish(partial, folder / layout.name)
    except BaseException:
        local_files.delete_file(partial)
        raise
    finally:
        _making.discard(descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return SharedArrays(folder / layout.name, descriptor, layout)


def used(folder: Path, prefix: str, besides: str) -> int:
    """Bytes of all files of a prefix but one, those that are being made included."""
    # Twice: a listing may miss a file that is renamed meanwhile.
    names = {
        path.name.removesuffix(local_files.PARTIAL)
        for _ in range(2)
        for path in folder.glob(f"{prefix}-*")
    }
    return sum(_size(folder / name) for name in names if not name.startswith(besides))


def _size(path: Path) -> int:
    """Bytes of a file, whole or being made; 0 where it is gone."""
    # In this order: one that is finished between the looks is met by the second.
    for place in (path.with_name(path.name + local_files.PARTIAL), path):
        with contextlib.suppress(FileNotFoundError):
            return private_folders.size_of(place)
    return 0


def sweep(folder: Path) -> int:
    """Delete the files that no process has open: what killed processes left. How many it were."""
    paths = [*folder.glob(f"*{SUFFIX}"), *folder.glob(f"*{SUFFIX}{local_files.PARTIAL}")]
    return sum(_delete_if_unused(path) for path in paths)


def unused(folder: Path) -> dict[Path, int]:
    """The files that ``sweep`` deletes, and their bytes."""
    if fcntl is None:
        return {}
    paths = [*folder.glob(f"*{SUFFIX}"), *folder.glob(f"*{SUFFIX}{local_files.PARTIAL}")]
    return {path: private_folders.size_of(path) for path in paths if _if_unused(path, _keep)}


def _keep(_path: Path) -> None:
    """The file stays."""


@functools.cache
def _sweep_at_exit(folder: Path) -> None:
    # What was given up while workers, ended by now, still had it open.
    util.Finalize(None, sweep, (folder,), exitpriority=-20)


def _release(path: Path, descriptor: int) -> None:
    os.close(descriptor)
    _delete_if_unused(path)


def _delete_if_unused(path: Path) -> bool:
    """Delete a file that nobody holds a lock on."""
    return _if_unused(path, local_files.delete_file)


def _if_unused(path: Path, act: Callable[[Path], None]) -> bool:
    """Act on a file that nobody holds a lock on, while nobody can take one."""
    try:
        # Opened anew: a lock belongs to an opening, which forked processes have in common.
        descriptor = private_folders.open_file(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        if not _locked(descriptor) or not local_files.is_at(descriptor, path):
            return False
        act(path)
        return True
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Whether the only lock of a file could be had at once."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(descriptor: int, data: memoryview, place: int) -> None:
    # By calls and not through a mapping: a full disk is then an error and not a signal.
    while data:
        count = os.pwrite(descriptor, data, place)
        data, place = data[count:], place + count


def _forget_unfinished() -> None:
    """In a forked process: do not hold the locks of what the parent's threads are filling."""
    for descriptor in _making:
        os.close(descriptor)
    _making.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_unfinished)
    os.register_at_fork(before=property_locks.note, after_in_child=property_locks.renew)
