"""What only this user can have written: files and folders in places that several users share.

A place such as ``/dev/shm`` lets anybody put anything under any name first. So nothing is believed
of a name: what was opened is looked at, by its descriptor.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "ForeignFileError",
    "folder_below",
    "is_private_folder",
    "is_shared_place",
    "open_file",
    "size_of",
]

_WRITABLE = stat.S_IWGRP | stat.S_IWOTH
_MOST_NAMES = 16


class ForeignFileError(OSError):
    """Under a name lies what another user may have put there, or no plain file."""


def open_file(path: Path, flags: int) -> int:
    """A descriptor of a plain file of this user that nobody else may write; 0600 where it is made.

    No link is followed, and no pipe or device waited for.

    Raises:
        ForeignFileError: something else has the name. OSError: as ``os.open``.
    """
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        # A link; a socket; a pipe that nobody reads.
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
        raise _foreign(path) from error
    state = os.fstat(descriptor)
    if stat.S_ISREG(state.st_mode) and _is_ours(state):
        return descriptor
    os.close(descriptor)
    raise _foreign(path)


def is_private_folder(path: Path) -> bool:
    """Whether a folder is this user's, and nobody else may write into it; links are none."""
    state = path.lstat()
    return stat.S_ISDIR(state.st_mode) and (os.name == "nt" or _is_ours(state))


def size_of(path: Path) -> int:
    """Bytes of a file that ``open_file`` would open; 0 of anything else that has the name."""
    state = path.lstat()
    return state.st_size if stat.S_ISREG(state.st_mode) and _is_ours(state) else 0


def is_shared_place(path: Path) -> bool:
    """Whether a folder is one for all users, in which each keeps what is theirs, as ``/tmp``."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return bool(stat.S_ISDIR(mode) and mode & stat.S_ISVTX and mode & _WRITABLE)


def folder_below(root: Path, name: str) -> Path:
    """The first of ``name``, ``name-1``, ... that is not there, or is a private folder.

    Whoever took a name first can't keep this user's processes from agreeing on the next one. The
    last name, where all are taken: it is refused when it is used.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    path = root / f"{name}-{user}"
    for number in range(1, _MOST_NAMES):
        try:
            if is_private_folder(path):
                return path
        except OSError:
            return path
        path = root / f"{name}-{user}-{number}"
    return path


def _is_ours(state: os.stat_result) -> bool:
    return state.st_uid == os.getuid() and not state.st_mode & _WRITABLE


def _foreign(path: Path) -> ForeignFileError:
    return ForeignFileError(
        errno.EPERM, "it is no plain file of this user that nobody else may write", str(path)
    )
