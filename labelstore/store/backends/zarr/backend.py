"""The Zarr v3 backend: sharded arrays with standard codecs, every object whole or absent.

A shard is one block of images with all its views, written once by one writer; its inner chunks are
groups of views, so that an epoch reads one chunk of each shard. Everything is read by any Zarr v3
library: zstd inside blosc with byte shuffle, and crc32c. Labels that lie in units (``units`` beside
this) are in an object of each block that none of them knows. zarr makes the arrays; the objects of
blocks are put together here, and read by ``reading`` (``shard_writing`` and ``shards`` say why).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from labelstore.errors import StoreError
from labelstore.format.arrays import commit_columns
from labelstore.storage import local_files
from labelstore.storage.untrusted import parsed
from labelstore.store.backends.zarr.arrays import (
    ATTRIBUTE,
    COMMITS,
    KEYS,
    TABLE_CHUNK,
    TARGETS,
    ArrayGrid,
    DurableStore,
    all_arrays,
    create_array,
    create_unwritten,
    grid_of,
    level_of,
)
from labelstore.store.backends.zarr.reading import ZarrReads
from labelstore.store.backends.zarr.shard_writing import BlockEncoder
from labelstore.store.backends.zarr.unit_objects import unit_object

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt
    from zarr.abc.store import Store

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

    def _storage(self) -> Store:
        """Where zarr writes."""
        return DurableStore(Path(self.path))

    def _create(self, manifest: Manifest, keys: Sequence[str], targets: Any) -> None:
        store = self._storage()
        opening = {"format": "labelstore", "state": "creating"}
        group = zarr.create_group(store, attributes={ATTRIBUTE: opening})
        rows = min(manifest.num_images, TABLE_CHUNK)
        grid, axes = ArrayGrid((manifest.num_images,), (rows,), None), ("image",)
        table = create_array(store, KEYS, "str", grid, axes, "")
        table[:] = np.asarray(keys, dtype=np.dtypes.StringDType())
        table = create_array(store, TARGETS, "<i4", grid, axes, -2)
        table[:] = np.asarray(targets, dtype=np.int32)
        columns = commit_columns(manifest)
        grid = ArrayGrid((manifest.num_blocks, columns), (1, columns), None)
        create_unwritten(store, COMMITS, "<u8", grid, ("block", "part"), 0)
        for spec in all_arrays(manifest):
            grid, level = grid_of(spec, manifest), level_of(spec.name, manifest)
            create_unwritten(store, spec.name, spec.dtype, grid, spec.axes, spec.fill, level)
        group.attrs.put({ATTRIBUTE: manifest.to_json()})

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
