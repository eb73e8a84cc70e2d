"""Chunks of remote stores that are kept in a local folder, so that they are asked for once.

A file is called by the commit digest of what it holds, which names the store, the array, the place
and the codes: nothing else can be taken for it, and one that does not have that digest is as good
as none. The folder may be deleted at any time, and grows until it is.

No benchmark pays for it yet; ``labelstore pull`` keeps a whole store, or a part, in the same way.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import StoreError
from labelstore.storage import local_files

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["VARIABLE", "ChunkFiles"]

VARIABLE = "LABELSTORE_CACHE"
"""The environment variable that names the folder."""


class ChunkFiles:
    """The chunks in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def of_environment(cls) -> ChunkFiles | None:
        """Those of the folder that the environment names; None where it names none."""
        folder = os.environ.get(VARIABLE)
        return cls(Path(folder)) if folder else None

    def has(self, digest: int) -> bool:
        """Whether there is a file of a digest."""
        return self._path(digest).is_file()

    def get(
        self, digest: int, dtype: np.dtype[Any], shape: tuple[int, ...]
    ) -> npt.NDArray[Any] | None:
        """The codes of a digest, not compared with it; None where they are not there."""
        path = self._path(digest)
        try:
            # A pipe under the name would be waited for.
            data = path.read_bytes() if path.is_file() else b""
        except OSError:
            return None
        if len(data) != dtype.itemsize * int(np.prod(shape)):
            return None
        return np.frombuffer(data, dtype).reshape(shape)

    def put(self, digest: int, codes: npt.NDArray[Any]) -> bool:
        """Keep codes; False where the disk refuses, which does not matter but for speed."""
        try:
            local_files.write_whole(self._path(digest), np.ascontiguousarray(codes).tobytes())
        except StoreError:
            return False
        return True

    def _path(self, digest: int) -> Path:
        name = f"{digest:016x}"
        return self._folder / name[:2] / name
