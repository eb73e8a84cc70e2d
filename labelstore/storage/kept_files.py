"""Files that are kept for other processes of this user, and for the next run.

In a folder for this user alone, below ``LABELSTORE_CACHE`` or else the system's folder for
temporary files; it may be deleted at any time. What is read is whole (it has a digest of itself)
and nobody else can have written it. Whatever is wrong with the folder, there is nothing in it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from labelstore.errors import StoreError
from labelstore.storage import local_files, private_folders

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["KeptFiles"]

_VARIABLE = "LABELSTORE_CACHE"
_MOST_BYTES = 2**31


class KeptFiles:
    """The files of one kind."""

    def __init__(self, kind: str, magic: bytes, root: Path | None = None) -> None:
        """Of a kind.

        Args:
            kind: names the folder.
            magic: begins each file, with the version of what is in it.
            root: the folder that may be shared; the environment's when None.
        """
        root = root or Path(os.environ.get(_VARIABLE) or tempfile.gettempdir())
        self._folder = private_folders.folder_below(root, f"labelstore-{kind}")
        self._magic = magic

    def get(self, name: str) -> memoryview | None:
        """What was put under a name; None where nothing is that can be believed."""
        try:
            if not private_folders.is_private_folder(self._folder):
                return None
            path = self._folder / name
            with os.fdopen(private_folders.open_file(path, os.O_RDONLY), "rb") as file:
                # A bound given to read would be taken in memory at once.
                data = file.read() if os.fstat(file.fileno()).st_size <= _MOST_BYTES else b""
        except OSError:
            return None
        start = len(self._magic) + 16
        body = memoryview(data)[start:]
        return body if data[:start] == self._magic + xxhash.xxh3_128_digest(body) else None

    def put(self, name: str, *body: bytes | memoryview) -> None:
        """Keep something, in parts, under a name, in place of what was there, if the disk takes
        it."""
        digest = xxhash.xxh3_128()
        for part in body:
            digest.update(part)
        # Where it is refused, the next one makes it again.
        with contextlib.suppress(StoreError):
            local_files.write_private(self._folder / name, self._magic + digest.digest(), *body)

    def keep_newest(self, count: int, suffix: str) -> None:
        """Delete the files whose names end so, but for the ``count`` that were written last."""
        with contextlib.suppress(OSError):
            if not private_folders.is_private_folder(self._folder):
                return
            paths = self._folder.glob(f"*{suffix}")
            for path in sorted(paths, key=lambda path: -path.lstat().st_mtime)[count:]:
                path.unlink(missing_ok=True)

    @contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """Wait until no other process is in the turn of this name, so that only one makes it.

        At once where there are no locks, or no folder for them. The system ends the turn of a
        process that dies.
        """
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(ImportError, OSError, StoreError):
                import fcntl

                local_files.private_directory(self._folder)
                flags = os.O_RDWR | os.O_CREAT
                path = self._folder / f"{name}.turn"
                file = stack.enter_context(os.fdopen(private_folders.open_file(path, flags), "rb"))
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
