"""The Zarr v3 backend: sharded arrays with standard codecs, every object whole or absent.

A shard is one block of images with all its views, written once by one writer; its inner chunks are
groups of views, so that an epoch reads one chunk of each shard. Everything is read by any Zarr v3
library: zstd inside blosc with byte shuffle, and crc32c.
"""

from __future__ import annotations

import functools
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore, MemoryStore

from labelstore import files
from labelstore.backends.base import commit_columns
from labelstore.backends.shards import is_bare, is_direct, read_bare, read_chunks
from labelstore.backends.zarr_layout import (
    ATTRIBUTE,
    COMMITS,
    KEYS,
    TABLE_CHUNK,
    TARGETS,
    DurableStore,
    all_arrays,
    create_array,
    layout,
)
from labelstore.errors import (
    CorruptError,
    FormatError,
    LabelStoreError,
    NotFoundError,
    StoreError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt
    from zarr.abc.store import Store

    from labelstore.manifest import Encoding, Manifest

__all__ = ["ZarrBackend"]

T = TypeVar("T")


class ZarrBackend:
    """One store in a local folder; see ``Backend`` for the methods' contracts."""

    encoding: Encoding = "codes"
    group_views = 4

    def __init__(self, path: Path | str) -> None:
        self.path: Path | str = path
        self._arrays: dict[str, Any] = {}
        self._direct: set[str] = set()
        # Of direct arrays: chunk, chunks of a shard, type, fill; zarr works them out at each look.
        self._layouts: dict[str, tuple[tuple[int, ...], int, np.dtype[Any], Any]] = {}

    def read_manifest(self) -> Any:
        file = Path(self.path, "zarr.json")
        with files.readable(file):
            return self._parse_manifest(self._manifest_bytes(file))

    def _manifest_bytes(self, file: Path) -> bytes:
        if not file.parent.exists():
            raise NotFoundError(f"there is no store at {self.path}: check the path.")
        if not file.is_file():
            raise FormatError(
                f"{self.path} is not a labelstore store (it has no zarr.json): name a folder that "
                "labelstore made."
            )
        return file.read_bytes()

    def _parse_manifest(self, data: bytes) -> Any:
        try:
            return json.loads(data).get("attributes", {}).get(ATTRIBUTE)
        except (ValueError, AttributeError) as error:
            raise CorruptError(
                f"{self.path}/zarr.json cannot be read as JSON ({error}): it was changed or "
                "damaged; restore it from a copy."
            ) from error

    def open_arrays(self, manifest: Manifest) -> None:
        self._open(self._storage(read_only=True), manifest)

    def _storage(self, read_only: bool) -> Store:
        """Where zarr reads and writes."""
        return LocalStore(self.path, read_only=True) if read_only else DurableStore(Path(self.path))

    def read_keys(self) -> tuple[str, ...]:
        return tuple(str(key) for key in self._get(KEYS, ...))

    def read_targets(self) -> npt.NDArray[np.int32]:
        return np.asarray(self._get(TARGETS, ...), dtype=np.int32)

    def read_commits(self) -> npt.NDArray[np.uint64]:
        array = self._arrays[COMMITS]
        if isinstance(self.path, str) or not is_bare(array):
            return np.asarray(self._get(COMMITS, ...), dtype=np.uint64)
        # A file a block: zarr would take a millisecond for each.
        rows = np.zeros(array.shape, dtype=np.uint64)
        shape, dtype = array.chunks, array.dtype
        try:
            for block in range(len(rows)):
                row = read_bare(f"{self.path}/{COMMITS}/c/{block}/0", shape, dtype)
                if row is not None:
                    rows[block] = row
        except Exception as error:
            raise self._damaged(COMMITS, ..., error) from error
        return rows

    def read_commit(self, block: int) -> npt.NDArray[np.uint64]:
        return np.asarray(self._get(COMMITS, (slice(block, block + 1),))[0], dtype=np.uint64)

    def read(self, name: str, images: slice, views: slice | None) -> npt.NDArray[Any]:
        if views is None:
            return np.asarray(self._get(name, images))
        if name not in self._direct:
            return np.asarray(self._get(name, (images, views)))
        try:
            return self._read_groups(name, images, views)
        except LabelStoreError:
            raise
        except Exception as error:
            raise self._damaged(name, (images, views), error) from error

    def read_many(
        self, runs: Iterable[tuple[str, slice, slice | None]]
    ) -> Iterator[npt.NDArray[Any]]:
        wanted = list(runs)
        # Chunks of one shard are read together: its index is read and checked once.
        units: dict[object, list[int]] = defaultdict(list)
        for place, (name, images, views) in enumerate(wanted):
            chunk = views is not None and name in self._direct
            if chunk and views and self._is_chunk(name, images, views):
                units[name, images.start].append(place)
            else:
                units[place].append(place)
        calls = [
            functools.partial(self._read_unit, [wanted[place] for place in unit])
            for unit in units.values()
        ]
        done = zip(units.values(), self._together(calls), strict=True)
        found: dict[int, npt.NDArray[Any]] = {}
        for place in range(len(wanted)):
            while place not in found:
                unit, parts = next(done)
                found.update(zip(unit, parts, strict=True))
            yield found.pop(place)

    def _together(self, calls: Sequence[Callable[[], T]]) -> Iterator[T]:
        """What calls return, in order."""
        return (call() for call in calls)

    def _read_unit(self, runs: Sequence[tuple[str, slice, slice | None]]) -> list[npt.NDArray[Any]]:
        """One run of any kind, or chunks of one shard."""
        (name, images, _), count = runs[0], len(runs)
        if count == 1:
            return [self.read(*runs[0])]
        (rows, width, *_), chunks, *_ = self._layouts[name]
        columns = [views for _, _, views in runs if views]
        groups = [views.start // width for views in columns]
        try:
            codes = self._read_chunks(name, images.start // rows, groups, chunks)
        except LabelStoreError:
            raise
        except Exception as error:
            raise self._damaged(name, (images, columns[0]), error) from error
        return [
            part[: run.stop - run.start, : views.stop - views.start]
            for part, (_, run, _), views in zip(codes, runs, columns, strict=True)
        ]

    def _is_chunk(self, name: str, images: slice, views: slice) -> bool:
        """Whether runs of images and views are of one chunk, from its beginning."""
        rows, columns = self._layouts[name][0][:2]
        return bool(
            images.start % rows == 0
            and views.start % columns == 0
            and 0 < images.stop - images.start <= rows
            and 0 < views.stop - views.start <= columns
        )

    def fetch_block(self, block: int) -> None:
        """Nothing to do: the block is here."""

    def _read_groups(self, name: str, images: slice, views: slice) -> npt.NDArray[Any]:
        """Codes of one block of images and a run of views, chunk by chunk."""
        (rows, columns, *_), count, *_ = self._layouts[name]
        block = images.start // rows
        if images.stop > (block + 1) * rows:
            return np.asarray(self._get(name, (images, views)))
        first, last = views.start // columns, -(-views.stop // columns)
        parts = self._read_chunks(name, block, range(first, last), count)
        codes = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        start = views.start - first * columns
        inner = slice(images.start - block * rows, images.stop - block * rows)
        return codes[inner, start : start + views.stop - views.start]

    def _read_chunks(
        self, name: str, block: int, groups: Sequence[int], count: int
    ) -> list[npt.NDArray[Any]]:
        """The chunks of some groups of a shard of ``count``."""
        shape, _, dtype, fill = self._layouts[name]
        shard = f"{self.path}/{self._object_name(name, block)}"
        return read_chunks(shard, groups, count, shape, dtype, fill)

    def create(self, manifest: Manifest, keys: Sequence[str], targets: Any) -> None:
        with files.explained(Path(self.path)):
            self._create(manifest, keys, targets)

    def _create(self, manifest: Manifest, keys: Sequence[str], targets: Any) -> None:
        store = self._storage(read_only=False)
        opening = {"format": "labelstore", "state": "creating"}
        group = zarr.create_group(store, attributes={ATTRIBUTE: opening})
        rows = min(manifest.num_images, TABLE_CHUNK)
        every, axes = (manifest.num_images,), ("image",)
        table = create_array(store, KEYS, "str", every, (rows,), None, axes, "")
        table[:] = np.asarray(keys, dtype=np.dtypes.StringDType())
        table = create_array(store, TARGETS, "<i4", every, (rows,), None, axes, -2)
        table[:] = np.asarray(targets, dtype=np.int32)
        columns = commit_columns(manifest)
        create_array(
            store,
            COMMITS,
            "<u8",
            (manifest.num_blocks, columns),
            (1, columns),
            None,
            ("block", "part"),
            0,
        )
        for spec in all_arrays(manifest):
            shape, shards, chunks = layout(spec, manifest)
            create_array(store, spec.name, spec.dtype, shape, chunks, shards, spec.axes, spec.fill)
        group.attrs.put({ATTRIBUTE: manifest.to_json()})

    def open_for_writing(self, manifest: Manifest) -> None:
        """As ``open_arrays``, for a writer."""
        self._open(self._storage(read_only=False), manifest)

    def committed(self, blocks: Sequence[int]) -> list[int]:
        folder = Path(self.path, COMMITS, "c")
        with files.readable(folder):
            names = set(os.listdir(folder)) if folder.is_dir() else set()
        return [block for block in blocks if str(block) in names and self.read_commit(block)[0]]

    def write_block(
        self,
        block: int,
        arrays: Mapping[str, npt.NDArray[Any]],
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        objects = {
            self._object_name(name, block): self._encoded(name, block, codes)
            for name, codes in arrays.items()
        }
        self._write_objects(objects, ready)

    def _write_objects(
        self, objects: Mapping[str, bytes | None], ready: Callable[[], None]
    ) -> None:
        files.write_together({Path(self.path, name): data for name, data in objects.items()}, ready)

    def write_commit(self, block: int, row: npt.NDArray[np.uint64]) -> bool:
        name, data = self._object_name(COMMITS, block), self._encoded(COMMITS, block, row[None])
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
        return files.write_new(Path(self.path, name), data)

    def _encoded(self, name: str, block: int, codes: npt.NDArray[Any]) -> bytes | None:
        """The object of a block's codes of an array; None where all are fill values.

        In memory: zarr would read and merge an old shard, and fail on one that was torn.
        """
        known = self._arrays[name]
        prototype = default_buffer_prototype()
        objects: dict[str, Any] = {
            f"{name}/{part}": data
            for part, data in known.metadata.to_buffer_dict(prototype).items()
        }
        array: Any = zarr.open_array(MemoryStore(objects), path=name, mode="r+", zarr_format=3)
        size = (array.shards or array.chunks)[0]
        array[block * size : block * size + len(codes)] = codes
        data = objects.get(self._object_name(name, block))
        return None if data is None else bytes(data.to_bytes())

    def withdraw_commit(self, block: int) -> None:
        files.delete_durably(self._object(COMMITS, block))

    def bytes_by_part(self) -> dict[str, int]:
        parts: dict[str, int] = defaultdict(int)
        known = sorted(self._arrays, key=len, reverse=True)
        for name, size in self._sizes().items():
            part = next((array for array in known if name.startswith(f"{array}/")), "manifest")
            parts[part] += size
        return dict(parts)

    def _sizes(self) -> dict[str, int]:
        """Bytes of each of the store's objects."""
        root = Path(self.path)
        return {
            file.relative_to(root).as_posix(): file.stat().st_size
            for file in root.rglob("*")
            if file.is_file() and file.suffix != files.PARTIAL
        }

    def _object(self, name: str, block: int) -> Path:
        return Path(self.path, self._object_name(name, block))

    def _object_name(self, name: str, block: int) -> str:
        """What the object of a block is called in which an array lies."""
        axes = len(self._arrays[name].shape) - 1
        return "/".join((name, "c", str(block), *["0"] * axes))

    def _open(self, store: Store, manifest: Manifest) -> None:
        names = [KEYS, TARGETS, COMMITS, *(spec.name for spec in all_arrays(manifest))]
        self._arrays = self._open_arrays(store, names)
        columns = commit_columns(manifest)
        self._expect(KEYS, (manifest.num_images,))
        self._expect(TARGETS, (manifest.num_images,), np.dtype("<i4"))
        self._expect(COMMITS, (manifest.num_blocks, columns), np.dtype("<u8"))
        for spec in all_arrays(manifest):
            shape, sharded, chunks = layout(spec, manifest)
            self._expect(spec.name, shape, spec.dtype, sharded, chunks)
        self._direct = {
            name for name, array in self._arrays.items() if array.shards and is_direct(array)
        }
        for name in self._direct:
            array = self._arrays[name]
            count = array.shards[1] // array.chunks[1]
            self._layouts[name] = array.chunks, count, array.dtype, array.fill_value

    def _open_arrays(self, store: Store, names: Sequence[str]) -> dict[str, Any]:
        return {name: self._open_array(store, name) for name in names}

    def _open_array(self, store: Store, name: str) -> Any:
        # zarr raises what its parsers and codecs raise: any of it means that the file is damaged.
        try:
            mode: Literal["r", "r+"] = "r" if store.read_only else "r+"
            return zarr.open_array(store, path=name, mode=mode, zarr_format=3)
        except LabelStoreError:
            raise
        except Exception as error:
            refused = files.refusal(f"{self.path}/{name}/zarr.json", error)
            if refused is not None:
                raise refused from error
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
        except LabelStoreError:
            raise
        except Exception as error:
            raise self._damaged(name, selection, error) from error

    def _damaged(self, name: str, selection: Any, error: Exception) -> StoreError:
        return files.refusal(f"{self.path}/{name}", error) or CorruptError(
            f"{self.path}/{name} cannot be read at {_place(selection)} ({_line(error)}): the "
            "store is damaged there; make these blocks again."
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
