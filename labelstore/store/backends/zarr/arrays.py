"""How a store's arrays are laid out in Zarr, and where zarr writes their objects."""

from __future__ import annotations

import asyncio
import functools
import threading
import warnings
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import LocalStore, MemoryStore

from labelstore.errors import StoreError
from labelstore.format.arrays import image_arrays, prior_arrays, view_arrays
from labelstore.storage import local_files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from zarr.abc.store import Store
    from zarr.core.buffer import Buffer

    from labelstore.format.arrays import ArraySpec
    from labelstore.format.manifest import Manifest

__all__ = [
    "ATTRIBUTE",
    "COMMITS",
    "KEYS",
    "TABLE_CHUNK",
    "TARGETS",
    "ArrayGrid",
    "DurableStore",
    "all_arrays",
    "create_array",
    "create_unwritten",
    "grid_of",
    "level_of",
]

ATTRIBUTE = "labelstore"
"""The group attribute that holds the manifest."""

COMMITS, KEYS, TARGETS = "commits", "images/key", "images/target"
TABLE_LEVEL = 5
"""Level of compression, 1 to 9, of keys and targets; at 3 keys would be 30 % larger."""

_LABELS_LEVEL = 3
"""That of all of a store without lists of likely classes. 5 takes twice as long; class ids, which
say little of each other, are of about the same size (2 % larger to 4 % smaller, the more the views
of a photo agree)."""

_LISTED_LEVEL = 8
"""That of ranks in lists, and of all else of a store that has lists but what is below. 9 takes two
to three times as long and makes ranks 0.1 to 0.5 % smaller; 5 makes them 6 to 19 % larger."""

_LISTED_LEVELS = {"labels/top_prob": 7, "labels/rest_probs": 7, "images/prior_probs": 9}
"""Probabilities, of the same size at 8 and 9, to 0.3 %; and those of lists, which are few, and up
to 1 % smaller at 9 than at 8."""

TABLE_CHUNK = 65536
"""Images of a chunk of keys or of targets."""


class DurableStore(LocalStore):
    """A local store whose objects are synced to the disk before a write returns.

    After one write was refused, all are: zarr starts several at once and reports the first failure
    while the others still wait for their turn, and none of them may come after the caller has heard
    of it and mended what is there.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._turn = threading.Lock()
        self._refused = False

    async def set(self, key: str, value: Buffer) -> None:
        """Write one object durably."""
        await asyncio.to_thread(self.set_sync, key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write one object durably, for zarr's synchronous path."""
        self._check_writable()
        with self._turn:
            if self._refused:
                raise StoreError(
                    f"{self.root} had a write refused before: run the same command again; what was "
                    "committed is untouched."
                )
            self._refused = True
            local_files.write_durably(self.root / key, value.as_numpy_array().tobytes())
            self._refused = False

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write one object durably unless it is there; a store has one writer at a time."""
        if not (self.root / key).exists():
            await self.set(key, value)


def level_of(name: str, manifest: Manifest) -> int:
    """The level of compression of one of ``all_arrays``; it is free, and any reader reads any."""
    return _LISTED_LEVELS.get(name, _LISTED_LEVEL) if manifest.prior_size else _LABELS_LEVEL


def all_arrays(manifest: Manifest) -> tuple[ArraySpec, ...]:
    """The arrays of a store besides keys, targets and commits; labels in units are in none."""
    labels = view_arrays(manifest) if manifest.unit_images is None else ()
    return (*image_arrays(manifest), *prior_arrays(manifest), *labels)


class ArrayGrid(NamedTuple):
    """How an array is divided into objects."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    """Shape of a chunk, in shards of an inner one."""
    shards: tuple[int, ...] | None
    """Shape of a shard; None for an array without."""


def grid_of(spec: ArraySpec, manifest: Manifest) -> ArrayGrid:
    """The grid of one of ``all_arrays``."""
    block = manifest.block_images
    if "view" not in spec.axes:
        return ArrayGrid(spec.shape, (block, *spec.shape[1:]), None)
    rest = spec.shape[2:]
    whole = manifest.num_groups * manifest.group_views
    return ArrayGrid(spec.shape, (block, manifest.group_views, *rest), (block, whole, *rest))


def create_array(
    store: Store,
    name: str,
    dtype: Any,
    grid: ArrayGrid,
    axes: tuple[str, ...],
    fill: Any,
    level: int = TABLE_LEVEL,
) -> Any:
    """Make an empty array with the codecs that its name and type imply, its compressor at a level
    of 1 to 9; the open zarr array."""
    if name == COMMITS:
        compressors: tuple[Any, ...] = (Crc32cCodec(),)
    elif dtype == "str":
        compressors = (BloscCodec(cname="zstd", clevel=level, shuffle="noshuffle"), Crc32cCodec())
    else:
        size = np.dtype(dtype).itemsize
        shuffle: Literal["shuffle", "noshuffle"] = "shuffle" if size > 1 else "noshuffle"
        compressors = (
            BloscCodec(cname="zstd", clevel=level, typesize=size, shuffle=shuffle),
            Crc32cCodec(),
        )
    with warnings.catch_warnings():
        # Strings have no final Zarr v3 specification; what is written is vlen-utf8.
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        return zarr.create_array(
            store,
            name=name,
            shape=grid.shape,
            dtype=dtype,
            chunks=grid.chunks,
            shards=grid.shards,
            compressors=compressors,
            fill_value=fill,
            dimension_names=axes,
            config={"write_empty_chunks": True},
        )


def create_unwritten(store: Store, name: str, *description: Any) -> None:
    """``create_array``, of an array that zarr writes nothing else of: the same objects.

    On a disk they are laid down as zarr has made them for another store; it takes some milliseconds
    for each array, of which a store has ten.
    """
    if not isinstance(store, DurableStore):
        create_array(store, name, *description)
        return
    own = f"{name}/zarr.json"
    for key, data in _objects_of(name, *description).items():
        if key == own or not (store.root / key).exists():
            local_files.write_durably(store.root / key, data)


@functools.lru_cache(maxsize=1024)
def _objects_of(name: str, *description: Any) -> Mapping[str, bytes]:
    """The objects of an empty array alone in a store: its description, and those of groups."""
    objects: dict[str, Buffer] = {}
    create_array(MemoryStore(objects), name, *description)
    return {key: data.to_bytes() for key, data in objects.items()}
