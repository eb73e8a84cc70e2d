"""The objects of a new store: its groups, its arrays without labels, keys and targets.

They are what zarr would write, byte for byte. Of each array zarr makes the description, in memory
and once for all stores that have the same; keys and targets are encoded here. zarr asks a store
for every object before it writes it, and takes milliseconds, or round trips to a bucket, for each
of a dozen arrays: more than all the labels of a small store.
"""

from __future__ import annotations

import functools
import json
import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import MemoryStore

from labelstore.format.arrays import commit_columns
from labelstore.store.backends.zarr.arrays import (
    ATTRIBUTE,
    COMMITS,
    DESCRIPTION,
    KEYS,
    TARGETS,
    ArrayGrid,
    all_arrays,
    grid_of,
    level_of,
)
from labelstore.store.backends.zarr.metadata import array_layouts
from labelstore.store.backends.zarr.shard_writing import BlockEncoder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zarr.abc.store import Store
    from zarr.core.buffer import Buffer

    from labelstore.format.manifest import Manifest

__all__ = ["create_array", "group_document", "objects_within"]

_TABLE_LEVEL = 5
"""Level of compression, 1 to 9, of keys and targets; at 3 keys would be 30 % larger."""


def group_document(attribute: Any) -> bytes:
    """The description of the store's group.

    Args:
        attribute: the manifest, or what stands for it while the store is made.
    """
    return json.dumps(_group() | {"attributes": {ATTRIBUTE: attribute}}, indent=2).encode()


@functools.cache
def _group() -> dict[str, Any]:
    """What zarr says of a group without attributes."""
    objects: dict[str, Buffer] = {}
    zarr.create_group(MemoryStore(objects))
    document: dict[str, Any] = json.loads(objects[DESCRIPTION].to_bytes())
    return document


def objects_within(manifest: Manifest, keys: Sequence[str], targets: Any) -> dict[str, bytes]:
    """All objects of a store without labels but its group's description, by name.

    Args:
        manifest: the store's.
        keys: (num_images,) text.
        targets: (num_images,) integers, -1 for none.
    """
    columns = commit_columns(manifest)
    layouts = array_layouts(manifest)
    images = ArrayGrid((manifest.num_images,), layouts[KEYS].chunks, None)
    rows = ArrayGrid((manifest.num_blocks, columns), (1, columns), None)
    objects = {
        **_array_objects(KEYS, "str", images, ("image",), ""),
        **_array_objects(TARGETS, "<i4", images, ("image",), -2),
        **_array_objects(COMMITS, "<u8", rows, ("block", "part"), 0),
    }
    for spec in all_arrays(manifest):
        grid, level = grid_of(spec, manifest), level_of(spec.name, manifest)
        objects |= _array_objects(spec.name, spec.dtype, grid, spec.axes, spec.fill, level)
    tables = {KEYS: np.array(keys, dtype=object), TARGETS: np.asarray(targets, dtype=np.int32)}
    for name, values in tables.items():
        codecs = json.loads(objects[f"{name}/{DESCRIPTION}"])["codecs"]
        chunks_of = BlockEncoder.of(codecs, layouts[name]).table(values)
        objects |= {f"{name}/c/{number}": data for number, data in enumerate(chunks_of)}
    return objects


@functools.lru_cache(maxsize=1024)
def _array_objects(name: str, *description: Any) -> Mapping[str, bytes]:
    """The descriptions of an empty array and of the groups that it lies in."""
    objects: dict[str, Buffer] = {}
    create_array(MemoryStore(objects), name, *description)
    return {key: data.to_bytes() for key, data in objects.items() if key != DESCRIPTION}


def create_array(
    store: Store,
    name: str,
    dtype: Any,
    grid: ArrayGrid,
    axes: tuple[str, ...],
    fill: Any,
    level: int = _TABLE_LEVEL,
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
