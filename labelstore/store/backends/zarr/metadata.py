"""What each array's ``zarr.json`` has to say, and whether it says that.

A store's arrays follow from its manifest. So nothing of their descriptions is needed for reading;
they are for other Zarr libraries, and are checked so that all libraries read the same.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.format.arrays import commit_columns
from labelstore.storage.untrusted import json_of
from labelstore.store.backends.zarr.arrays import (
    COMMITS,
    KEYS,
    TABLE_CHUNK,
    TARGETS,
    all_arrays,
    grid_of,
)

if TYPE_CHECKING:
    from labelstore.format.manifest import Manifest

__all__ = ["ArrayLayout", "array_document", "array_layouts"]


@dataclass(frozen=True)
class ArrayLayout:
    """How one array lies in a Zarr store."""

    dtype: np.dtype[Any]
    """Of a value; ``object`` for strings."""
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    """Shape of a chunk, in shards of an inner one."""
    shards: tuple[int, ...] | None
    """Shape of a shard; None for an array without."""
    fill: Any
    """The value of what was never written."""
    compressed: bool = True

    @property
    def rows(self) -> int:
        """Entries along the first axis of one object."""
        return (self.shards or self.chunks)[0]

    @property
    def count(self) -> int:
        """Chunks of a shard."""
        return 1 if self.shards is None else self.shards[1] // self.chunks[1]


def array_layouts(manifest: Manifest) -> dict[str, ArrayLayout]:
    """The layout of every array that a manifest implies, by name."""
    images = manifest.num_images
    table = (min(images, TABLE_CHUNK),)
    columns = commit_columns(manifest)
    layouts = {
        KEYS: ArrayLayout(np.dtype(object), (images,), table, None, ""),
        TARGETS: ArrayLayout(np.dtype("<i4"), (images,), table, None, -2),
        COMMITS: ArrayLayout(
            np.dtype("<u8"), (manifest.num_blocks, columns), (1, columns), None, 0, False
        ),
    }
    for spec in all_arrays(manifest):
        layouts[spec.name] = ArrayLayout(spec.dtype, *grid_of(spec, manifest), spec.fill)
    return layouts


def array_document(data: bytes, expected: ArrayLayout) -> Any:
    """The JSON of an array's ``zarr.json``, which fits its layout; stores that are alike have the
    same, and what fitted once is not looked at again.

    Raises:
        ValueError, or what else comes of it, where it does not.
    """
    look = _array_document if len(data) <= _LITTLE_BYTES else _array_document.__wrapped__
    return look(data, expected)


_LITTLE_BYTES = 2**12
"""Bytes of a description that is kept at most: twice those of any that is written here."""


@functools.lru_cache(maxsize=256)
def _array_document(data: bytes, expected: ArrayLayout) -> Any:
    document = json_of(data)
    _check_layout(document, expected)
    return document


def _check_layout(document: Any, expected: ArrayLayout) -> None:
    """Raise ValueError, or what else comes of it, where an array's description is another.

    Args:
        document: the JSON of its ``zarr.json``.
    """
    codecs = _codecs(expected)
    if expected.shards is not None:
        index = _codecs(ArrayLayout(np.dtype("<u8"), (), (), None, 0, False))
        inner = {"chunk_shape": list(expected.chunks), "codecs": codecs, "index_codecs": index}
        codecs = [("sharding_indexed", {**inner, "index_location": "end"})]
    description = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(expected.shape),
        "data_type": "string" if expected.dtype.hasobject else expected.dtype.name,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": list(expected.shards or expected.chunks)},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": _fill(expected),
        "codecs": codecs,
    }
    for name, value in description.items():
        stored = document[name]
        if name == "codecs":
            stored = [_codec(codec) for codec in stored]
        if not _same(stored, value):
            raise ValueError(f"its {name} is {str(stored)[:80]}, expected {str(value)[:80]}")
    if document.get("storage_transformers"):
        raise ValueError("it has storage transformers")


def _codecs(expected: ArrayLayout) -> list[tuple[str, dict[str, Any]]]:
    """Names of codecs in order, and what of their settings decides what is read."""
    size = 1 if expected.dtype.hasobject else expected.dtype.itemsize
    first: tuple[str, dict[str, Any]] = ("bytes", {"endian": "little"} if size > 1 else {})
    if expected.dtype.hasobject:
        first = ("vlen-utf8", {})
    middle = [("blosc", {"cname": "zstd", "typesize": size})] if expected.compressed else []
    return [first, *middle, ("crc32c", {})]


_DECIDING = {"blosc": ("cname", "typesize"), "crc32c": (), "vlen-utf8": (), "bytes": ("endian",)}
"""Settings of codecs that decide what is read; others say how it was written."""


def _codec(document: Any) -> tuple[str, dict[str, Any]]:
    """A codec's name and those of its settings that decide what is read."""
    name, settings = document["name"], document.get("configuration") or {}
    if name == "sharding_indexed":
        lists = {key: [_codec(c) for c in settings[key]] for key in ("codecs", "index_codecs")}
        place = settings.get("index_location", "end")
        return name, {"chunk_shape": settings["chunk_shape"], **lists, "index_location": place}
    return name, {key: settings[key] for key in _DECIDING[name] if key in settings}


def _fill(expected: ArrayLayout) -> Any:
    if expected.dtype.hasobject:
        return ""
    if expected.dtype.kind == "f":
        return "NaN" if math.isnan(expected.fill) else float(expected.fill)
    return int(expected.fill)


def _same(one: Any, other: Any) -> bool:
    """Whether two documents are equal in type, too: true is no 1, and 1.0 none."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other)
