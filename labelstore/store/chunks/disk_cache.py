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
from labelstore.format.arrays import array_digest, view_arrays
from labelstore.storage import local_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest

    Codes = dict[str, npt.NDArray[Any]]
    Places = Sequence[tuple[int, int]]

__all__ = ["VARIABLE", "ChunkFiles", "KeptChunks"]

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


class KeptChunks:
    """The chunks of one store: from the folder where they are there, else from the store."""

    def __init__(
        self, files: ChunkFiles, manifest: Manifest, digest: Callable[[str, int, int], int]
    ) -> None:
        """Of a store.

        Args:
            files: the folder.
            manifest: the store's.
            digest: the commit digest of an array's chunk: name, block, group.
        """
        self._files = files
        self._manifest = manifest
        self._digest = digest
        self._specs = view_arrays(manifest)

    def read(self, places: Places, fetch: Callable[[Places], Iterator[Codes]]) -> Iterator[Codes]:
        """All codes of some (block, group), in order, as they were committed.

        What is not in the folder, or not as it should be there, is fetched and put there.

        Args:
            places: blocks and groups.
            fetch: reads places from the store, verified.
        """
        kept = [self._is_kept(*place) for place in places]
        fetched = fetch([place for place, is_kept in zip(places, kept, strict=True) if not is_kept])
        for place, is_kept in zip(places, kept, strict=True):
            codes = self._codes(*place) if is_kept else None
            if codes is None:
                codes = next(fetch([place])) if is_kept else next(fetched)
                for name, values in codes.items():
                    self._files.put(self._digest(name, *place), values)
            yield codes

    def _is_kept(self, block: int, group: int) -> bool:
        """Whether there are files of a chunk's arrays."""
        return all(self._files.has(self._digest(spec.name, block, group)) for spec in self._specs)

    def _codes(self, block: int, group: int) -> Codes | None:
        """A chunk from its files; None where they are not what was committed."""
        rows, columns = self._manifest.block_slice(block), self._manifest.group_slice(group)
        chunk: Codes = {}
        for spec in self._specs:
            shape = (rows.stop - rows.start, columns.stop - columns.start, *spec.shape[2:])
            digest = self._digest(spec.name, block, group)
            codes = self._files.get(digest, spec.dtype, shape)
            if codes is None or digest != array_digest(
                self._manifest.id, spec.name, block, group, codes
            ):
                return None
            chunk[spec.name] = codes
        return chunk
