"""One folder in another's place: at every moment the name leads to a whole one of the two.

The new folder is made beside the old one, under a hidden name that says what for. Where the system
can, the two names are exchanged in one step, and what was old is then moved out of the way and
deleted. Elsewhere the old folder is moved out of the way first, so that for a moment the name leads
nowhere: ``finish`` makes good for a process that died then.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from typing import TYPE_CHECKING

from labelstore.storage import local_files
from labelstore.storage.local_files import explained, sync_directory
from labelstore.storage.locks import exclusive_lock

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "PURPOSES",
    "beside",
    "exchange",
    "finish",
    "give_up",
    "left_beside",
    "places_without",
    "swap_in",
]

PURPOSES = ("prune", "grow", "publish")
"""What a folder is made beside another one for."""

_REPLACED = "replaced"
"""What the hidden name of a folder that has been replaced says besides."""

_HIDDEN = re.compile(rf"\.(.+)\.({'|'.join(PURPOSES)})-{_REPLACED}(\.[^.]+)?")

_HERE, _EXCHANGE = -100, 2
"""``AT_FDCWD`` and ``RENAME_EXCHANGE`` of Linux."""

_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What a system, or a file system, says that exchanges no names."""


def beside(place: Path, purpose: str) -> Path:
    """The hidden name beside a folder, of the same ending, for what is to come in its place."""
    return place.with_name(f".{place.stem}.{purpose}{place.suffix}")


def left_beside(place: Path) -> list[Path]:
    """Folders that were made for a place, or replaced in it, and are still there."""
    names = [beside(place, name) for purpose in PURPOSES for name in (purpose, _replaced(purpose))]
    return [name for name in names if name.is_dir()]


def places_without(folder: Path) -> list[Path]:
    """Places in a folder that lead nowhere since what was in them is being replaced."""
    names = [_HIDDEN.fullmatch(entry.name) for entry in folder.iterdir()]
    places = [folder / f"{name[1]}{name[3] or ''}" for name in names if name]
    return [place for place in places if not place.exists()]


def swap_in(place: Path, purpose: str) -> None:
    """Put the folder ``beside(place, purpose)`` in a folder's place, and delete the old one.

    All of the new one must be on the disk. Who dies on the way leaves the old one in its place, or
    the new one, and ``finish`` does the rest.

    Args:
        place: no symbolic link; its writer's lock is held. purpose: one of ``PURPOSES``.

    Raises:
        StoreError: the system refuses; what is in the place is whole.
    """
    new, old = beside(place, purpose), beside(place, _replaced(purpose))
    _discard(old)
    with explained(place):
        if exchange(new, place):
            sync_directory(place.parent)
            new.replace(old)
        else:
            place.replace(old)
            sync_directory(place.parent)
            new.replace(place)
        sync_directory(place.parent)
    _discard(old)


def finish(place: Path, purpose: str) -> None:
    """Finish what a ``swap_in`` that was interrupted has begun; nothing where there was none.

    Raises:
        BusyError: it goes on: the lock of the one that is replaced goes with it. StoreError: the
        system refuses.
    """
    new, old = beside(place, purpose), beside(place, _replaced(purpose))
    if not old.is_dir():
        return
    with exclusive_lock(old):
        with explained(place):
            if not place.exists():
                # It was moved when the new one was whole.
                (new if new.is_dir() else old).replace(place)
                sync_directory(place.parent)
        _discard(old)


def give_up(place: Path, purpose: str) -> None:
    """Delete what was made for a place, whole or not; StoreError when refused."""
    new, old = beside(place, purpose), beside(place, _replaced(purpose))
    _discard(old)
    if new.is_dir():
        with explained(new):
            # What is half deleted must not look like one that is being made.
            new.replace(old)
        _discard(old)


def _discard(folder: Path) -> None:
    if folder.is_dir():
        local_files.delete_tree(folder)


def _replaced(purpose: str) -> str:
    return f"{purpose}-{_REPLACED}"


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders' names in one step; False where the system cannot.

    Raises:
        OSError: it refuses.
    """
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    names = os.fsencode(one), os.fsencode(other)
    if call(_HERE, names[0], _HERE, names[1], ctypes.c_uint(_EXCHANGE)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))
