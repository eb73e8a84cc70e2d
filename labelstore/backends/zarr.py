"""The Zarr v3 backend: sharded arrays with standard codecs, every object whole or absent.

A shard is one block of images with all its views, written once by one writer; its inner chunks are
groups of views, so that an epoch reads one chunk of each shard. Everything is read by any Zarr v3
library: zstd inside blosc with byte shuffle, and crc32c.
"""

from __future__ import annotations

import asyncio
import json
import threading
import warnings
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import LocalStore

from labelstore import files
from labelstore.backends.base import commit_columns, image_arrays, prior_arrays, view_arrays
from labelstore.backends.shards import is_direct, read_chunk
from labelstore.errors import CorruptError, FormatError, NotFoundError, StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from zarr.core.buffer import Buffer

    from labelstore.backends.base import ArraySpec
    from labelstore.manifest import Encoding, Manifest

__all__ = ["ZarrBackend"]

ATTRIBUTE = "labelstore"
"""The group attribute that holds the manifest."""

COMMITS, KEYS, TARGETS = "commits", "images/key", "images/target"
_TABLE_CHUNK = 65536


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
            files.write_durably(self.root / key, value.as_numpy_array().tobytes())
            self._refused = False

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write one object durably unless it is there; a store has one writer at a time."""
        if not (self.root / key).exists():
            await self.set(key, value)


class ZarrBackend:
    """One store in a local folder; see ``Backend`` for the methods' contracts."""

    encoding: Encoding = "codes"
    group_views = 4

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrays: dict[str, Any] = {}
        self._direct: set[str] = set()
        self._specs: dict[str, ArraySpec] = {}

    def read_manifest(self) -> Any:
        file = self.path / "zarr.json"
        if not self.path.exists():
            raise NotFoundError(f"there is no store at {self.path}: check the path.")
        if not file.is_file():
            raise FormatError(
                f"{self.path} is not a labelstore store (it has no zarr.json): name a folder that "
                "labelstore made."
            )
        try:
            document = json.loads(file.read_bytes())
            manifest = document.get("attributes", {}).get(ATTRIBUTE)
        except (ValueError, AttributeError) as error:
            raise CorruptError(
                f"{file} cannot be read as JSON ({error}): it was changed or damaged; restore it "
                "from a copy."
            ) from error
        return manifest

    def open_arrays(self, manifest: Manifest) -> None:
        store = LocalStore(self.path, read_only=True)
        self._open(store, manifest)

    def read_keys(self) -> tuple[str, ...]:
        return tuple(str(key) for key in self._get(KEYS, ...))

    def read_targets(self) -> npt.NDArray[np.int32]:
        return np.asarray(self._get(TARGETS, ...), dtype=np.int32)

    def read_commits(self) -> npt.NDArray[np.uint64]:
        return np.asarray(self._get(COMMITS, ...), dtype=np.uint64)

    def read(self, name: str, images: slice, views: slice | None) -> npt.NDArray[Any]:
        if views is None:
            return np.asarray(self._get(name, images))
        if name not in self._direct:
            return np.asarray(self._get(name, (images, views)))
        try:
            return self._read_groups(name, images, views)
        except Exception as error:
            raise self._damaged(name, (images, views), error) from error

    def _read_groups(self, name: str, images: slice, views: slice) -> npt.NDArray[Any]:
        """Codes of one block of images and a run of views, chunk by chunk."""
        array = self._arrays[name]
        rows, columns, *rest = array.chunks
        block = images.start // rows
        if images.stop > (block + 1) * rows:
            return np.asarray(self._get(name, (images, views)))
        count = array.shards[1] // columns
        first, last = views.start // columns, -(-views.stop // columns)
        parts = [
            read_chunk(
                self._object(name, block),
                group,
                count,
                (rows, columns, *rest),
                array.dtype,
                array.fill_value,
            )
            for group in range(first, last)
        ]
        codes = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        start = views.start - first * columns
        inner = slice(images.start - block * rows, images.stop - block * rows)
        return codes[inner, start : start + views.stop - views.start]

    def create(self, manifest: Manifest, keys: Sequence[str], targets: Any) -> None:
        with files.explained(self.path):
            self._create(manifest, keys, targets)

    def _create(self, manifest: Manifest, keys: Sequence[str], targets: Any) -> None:
        store = DurableStore(self.path)
        opening = {"format": "labelstore", "state": "creating"}
        group = zarr.create_group(store, attributes={ATTRIBUTE: opening})
        rows = min(manifest.num_images, _TABLE_CHUNK)
        _create(store, KEYS, "str", (manifest.num_images,), (rows,), None, ("image",), "")[:] = (
            np.asarray(keys, dtype=np.dtypes.StringDType())
        )
        _create(store, TARGETS, "<i4", (manifest.num_images,), (rows,), None, ("image",), -2)[:] = (
            np.asarray(targets, dtype=np.int32)
        )
        columns = commit_columns(manifest)
        _create(
            store,
            COMMITS,
            "<u8",
            (manifest.num_blocks, columns),
            (1, columns),
            None,
            ("block", "part"),
            0,
        )
        for spec in _specs(manifest):
            shape, shards, chunks = _layout(spec, manifest)
            _create(store, spec.name, spec.dtype, shape, chunks, shards, spec.axes, spec.fill)
        group.attrs.put({ATTRIBUTE: manifest.to_json()})

    def open_for_writing(self, manifest: Manifest) -> None:
        """As ``open_arrays``, for a writer."""
        self._open(DurableStore(self.path), manifest)

    def write_block(self, block: int, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        for name, codes in arrays.items():
            array = self._arrays[name]
            # zarr would read and merge an old shard, and fail on one that was torn.
            files.delete_file(self._object(name, block))
            size = (array.shards or array.chunks)[0]
            with files.explained(self.path / name):
                array[block * size : block * size + len(codes)] = codes

    def write_commit(self, block: int, row: npt.NDArray[np.uint64]) -> None:
        with files.explained(self.path / COMMITS):
            self._arrays[COMMITS][block] = row

    def withdraw_commit(self, block: int) -> None:
        files.delete_durably(self._object(COMMITS, block))

    def bytes_by_part(self) -> dict[str, int]:
        parts: dict[str, int] = defaultdict(int)
        known = sorted(self._arrays, key=len, reverse=True)
        for file in self.path.rglob("*"):
            if file.is_file() and file.suffix != files.PARTIAL:
                name = file.relative_to(self.path).as_posix()
                part = next((array for array in known if name.startswith(f"{array}/")), "manifest")
                parts[part] += file.stat().st_size
        return dict(parts)

    def _object(self, name: str, block: int) -> Path:
        axes = len(self._arrays[name].shape) - 1
        return self.path.joinpath(name, "c", str(block), *["0"] * axes)

    def _open(self, store: LocalStore, manifest: Manifest) -> None:
        self._arrays = {name: self._open_array(store, name) for name in (KEYS, TARGETS, COMMITS)}
        columns = commit_columns(manifest)
        self._expect(KEYS, (manifest.num_images,))
        self._expect(TARGETS, (manifest.num_images,), np.dtype("<i4"))
        self._expect(COMMITS, (manifest.num_blocks, columns), np.dtype("<u8"))
        for spec in _specs(manifest):
            self._arrays[spec.name] = self._open_array(store, spec.name)
            shape, sharded, chunks = _layout(spec, manifest)
            self._expect(spec.name, shape, spec.dtype, sharded, chunks)
        self._direct = {
            name for name, array in self._arrays.items() if array.shards and is_direct(array)
        }

    def _open_array(self, store: LocalStore, name: str) -> Any:
        # zarr raises what its parsers and codecs raise: any of it means that the file is damaged.
        try:
            return zarr.open_array(store, path=name, mode="r+" if not store.read_only else "r")
        except Exception as error:
            raise CorruptError(
                f"{self.path}/{name}/zarr.json cannot be read ({_line(error)}): it is missing or "
                "damaged; restore it from a copy."
            ) from error

    def _expect(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any] | None = None,
        shards: tuple[int, ...] | None = None,
        chunks: tuple[int, ...] | None = None,
    ) -> None:
        array = self._arrays[name]
        found = (array.shape, array.dtype if dtype else None, array.shards if chunks else None)
        if found != (shape, dtype, shards) or (chunks and array.chunks != chunks):
            raise CorruptError(
                f"{self.path}/{name} has shape {array.shape}, type {array.dtype}, shards "
                f"{array.shards} and chunks {array.chunks}, which the manifest does not imply "
                f"(shape {shape}): its zarr.json was changed; restore it from a copy."
            )

    def _get(self, name: str, selection: Any) -> Any:
        try:
            return self._arrays[name][selection]
        except Exception as error:
            raise self._damaged(name, selection, error) from error

    def _damaged(self, name: str, selection: Any, error: Exception) -> CorruptError:
        return CorruptError(
            f"{self.path}/{name} cannot be read at {_place(selection)} ({_line(error)}): the "
            "store is damaged there; make these blocks again."
        )


def _specs(manifest: Manifest) -> tuple[ArraySpec, ...]:
    return (*image_arrays(manifest), *prior_arrays(manifest), *view_arrays(manifest))


def _layout(
    spec: ArraySpec, manifest: Manifest
) -> tuple[tuple[int, ...], tuple[int, ...] | None, tuple[int, ...]]:
    """Shape, shard shape and chunk shape of an array."""
    block = manifest.block_images
    if "view" not in spec.axes:
        return spec.shape, None, (block, *spec.shape[1:])
    rest = spec.shape[2:]
    whole = manifest.num_groups * manifest.group_views
    return spec.shape, (block, whole, *rest), (block, manifest.group_views, *rest)


def _create(
    store: LocalStore,
    name: str,
    dtype: Any,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None,
    axes: tuple[str, ...],
    fill: Any,
) -> Any:
    if name == COMMITS:
        compressors: tuple[Any, ...] = (Crc32cCodec(),)
    elif dtype == "str":
        compressors = (BloscCodec(cname="zstd", clevel=9, shuffle="noshuffle"), Crc32cCodec())
    else:
        size = np.dtype(dtype).itemsize
        shuffle: Literal["shuffle", "noshuffle"] = "shuffle" if size > 1 else "noshuffle"
        compressors = (
            BloscCodec(cname="zstd", clevel=9, typesize=size, shuffle=shuffle),
            Crc32cCodec(),
        )
    with warnings.catch_warnings():
        # Strings have no final Zarr v3 specification; what is written is vlen-utf8.
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        return zarr.create_array(
            store,
            name=name,
            shape=shape,
            dtype=dtype,
            chunks=chunks,
            shards=shards,
            compressors=compressors,
            fill_value=fill,
            dimension_names=axes,
            config={"write_empty_chunks": True},
        )


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:157]}..."


def _place(selection: Any) -> str:
    if selection is ...:
        return "its whole"
    parts = selection if isinstance(selection, tuple) else (selection,)
    names = ("images", "views")
    return ", ".join(
        f"{name} {part.start} to {part.stop - 1}" for name, part in zip(names, parts, strict=False)
    )
