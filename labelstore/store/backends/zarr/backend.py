"""The Zarr v3 backend: sharded arrays with standard codecs, every object whole or absent.

A shard is one block of images with all its views, written once by one writer; its inner chunks are
groups of views, so that an epoch reads one chunk of each shard. Everything is read by any Zarr v3
library: zstd inside blosc with byte shuffle, and crc32c. Labels that lie in units (``units`` beside
this) are in an object of each block that none of them knows. zarr describes the arrays; objects are
put together here, and read by ``reading`` (``creation``, ``shard_writing`` and ``shards`` say why).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelstore.errors import StoreError
from labelstore.storage import local_files
from labelstore.storage.untrusted import parsed
from labelstore.store.backends.zarr.arrays import COMMITS, DESCRIPTION, KEYS, TARGETS
from labelstore.store.backends.zarr.reading import ZarrReads
from labelstore.store.backends.zarr.shard_writing import BlockEncoder
from labelstore.store.backends.zarr.unit_objects import unit_object

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from labelstore.format.blocks import StoredArray
    from labelstore.format.manifest import Manifest

__all__ = ["ZarrBackend"]


class ZarrBackend(ZarrReads):
    """One store in a local folder, read and written; see ``Backend`` for the methods' contracts."""

    group_views = 4

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        self._encoders: dict[str, BlockEncoder] = {}
        """Of the arrays of blocks, where the store is open for writing."""

    def create(self, manifest: Manifest, keys: Sequence[str], targets: Any) -> None:
        with local_files.explained(Path(self.path)):
            self._create(manifest, keys, targets)

    def _create(self, manifest: Manifest, keys: Sequence[str], targets: Any) -> None:
        # zarr is imported where a store is made, and nowhere else.
        from labelstore.store.backends.zarr.creation import group_document, objects_within

        opening = {"format": "labelstore", "state": "creating"}
        self._put(DESCRIPTION, group_document(opening))
        self.write_objects(objects_within(manifest, keys, targets))
        self._put(DESCRIPTION, group_document(manifest.to_json()))

    def _put(self, name: str, data: bytes) -> None:
        """Write an object in place of what it was."""
        local_files.write_durably(Path(self.path, name), data)

    def open_for_writing(self, manifest: Manifest) -> None:
        """As ``open_arrays``, for a writer."""
        for name, document in self._open_arrays(manifest).items():
            if name not in (KEYS, TARGETS):
                with parsed(f"{self.path}/{name}"):
                    encoder = BlockEncoder.of(document["codecs"], self._layouts[name])
                    self._encoders[name] = encoder

    def committed(self, blocks: Sequence[int]) -> list[int]:
        folder = Path(self.path, COMMITS, "c")
        with local_files.readable(folder):
            names = set(os.listdir(folder)) if folder.is_dir() else set()
        return [block for block in blocks if str(block) in names and self.read_commit(block)[0]]

    def encode_block(
        self,
        block: int,
        arrays: Mapping[str, npt.NDArray[Any]],
        stored: Mapping[str, StoredArray] | None = None,
    ) -> tuple[dict[str, bytes | None], npt.NDArray[np.uint64] | None]:
        known = stored or {}
        objects = {
            self._object_name(name, block): self._encoders[name].encode(codes, known.get(name))
            for name, codes in arrays.items()
            if name in self._encoders
        }
        digests = None
        if self.units is not None:
            objects[unit_object(block)], digests = self.units.layout.encode(block, arrays)
        return objects, digests

    def write_objects(
        self, objects: Mapping[str, bytes | None], ready: Callable[[], None] = lambda: None
    ) -> None:
        local_files.write_together(
            {Path(self.path, name): data for name, data in objects.items()}, ready
        )

    def write_commit(self, block: int, row: npt.NDArray[np.uint64]) -> bool:
        name, data = self._object_name(COMMITS, block), self._encoders[COMMITS].encode(row[None])
        if data is None:
            raise StoreError(f"{self.path}: the commit row of block {block} is all zeros.")
        while not self._write_new(name, data):
            if self.read_commit(block)[0]:
                return False
            # A row of zeros: its commit was withdrawn.
            self.withdraw_commit(block)
        return True

    def _write_new(self, name: str, data: bytes) -> bool:
        """Write an object that is not there; False where it is."""
        return local_files.write_new(Path(self.path, name), data)

    def withdraw_commit(self, block: int) -> None:
        local_files.delete_durably(self._object(COMMITS, block))
