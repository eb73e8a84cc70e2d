"""Folders for what is made on the way and not kept, in the system's folder of temporary files.

Whoever works in one holds its lock, so that the next one knows those of killed processes, and
removes them.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from labelstore.errors import BusyError, StoreError
from labelstore.storage import local_files, locks

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["abandoned", "sweep", "workspace"]

_PREFIX = "labelstore-work-"

_LOCKED_WITHIN = 3600.0
"""Seconds after which a folder without a lock, which is taken right after it is made, was left."""


@contextmanager
def workspace() -> Iterator[Path]:
    """An empty folder of this process, readable by this user alone, that is deleted at the end.

    What killed processes of this user have left is removed first.

    Raises:
        StoreError: the system refuses.
    """
    sweep()
    with local_files.explained(Path(tempfile.gettempdir())):
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    # Deleted with its lock held: without, another process takes it for one that was left, and
    # deletes it at the same time.
    with locks.exclusive_lock(folder):
        try:
            yield folder
        finally:
            local_files.delete_tree(folder)


def sweep() -> None:
    """Delete the folders that killed processes of this user have left, as far as that goes."""
    for folder in _folders():
        with contextlib.suppress(BusyError, StoreError, OSError), _taken(folder):
            local_files.delete_tree(folder)


def abandoned() -> list[Path]:
    """The folders that killed processes of this user have left, sorted."""
    folders = []
    for folder in _folders():
        with contextlib.suppress(BusyError, StoreError, OSError), _taken(folder):
            folders.append(folder)
    return folders


def _folders() -> list[Path]:
    """Folders of this user that may be somebody's who is at work."""
    entries = sorted(Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"))
    return [entry for entry in entries if not entry.is_symlink() and entry.is_dir()]


@contextmanager
def _taken(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder that nobody works in; BusyError where somebody may."""
    state = folder.stat()
    foreign = hasattr(os, "getuid") and state.st_uid != os.getuid()
    new = not (folder / locks.LOCK_NAME).exists() and time.time() - state.st_mtime < _LOCKED_WITHIN
    if foreign or new:
        raise BusyError(f"{folder} is another process's: leave it.")
    with locks.exclusive_lock(folder) as claim:
        if claim is None:
            raise BusyError(f"{folder} may be another process's on a system without locks.")
        yield
