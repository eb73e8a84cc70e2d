"""The Parquet backend: one row a view, plain class ids and probabilities, for SQL and data frames.

A folder of Parquet files. A block's labels are one file whose row groups are groups of views; page
checksums are written, and verified when read. Lists leave out places that hold no class, and an
image that could not be read has rows of nulls.
"""

from __future__ import annotations

import io
import json
import os
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from labelstore import files
from labelstore.backends.base import commit_columns, image_arrays, prior_arrays, view_arrays
from labelstore.backends.parquet_tables import EDGES, file_of, label_table, measured_table
from labelstore.errors import CorruptError, FormatError, LabelStoreError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from labelstore.backends.base import ArraySpec
    from labelstore.manifest import Encoding, Manifest

__all__ = [
    "COMMITS",
    "LABELS",
    "MANIFEST",
    "MEASURED",
    "TABLE",
    "ParquetBackend",
    "block_file",
    "readable_file",
]

T = TypeVar("T")

MANIFEST, TABLE = "manifest.json", "images.parquet"
LABELS, MEASURED, COMMITS = "labels", "measured", "commits"

_OPEN_FILES = 16

_READING: dict[str, Any] = {
    "page_checksum_verification": True,
    "memory_map": False,
    "pre_buffer": False,
}
_COLUMNS = {
    "images/size": ["width", "height"],
    "images/digest": ["digest"],
    "images/status": ["status"],
    "images/prior_classes": ["prior_classes"],
    "images/prior_power": ["prior_power"],
    "images/prior_probs": ["prior_probs"],
    "labels/top_prob": ["top_prob"],
    "labels/classes": ["top_class", "rest_classes"],
    "labels/rest_probs": ["rest_probs"],
    "views/box": list(EDGES),
    "views/flip": ["flip"],
}
"""The columns that hold each array."""

_PART_OF_COLUMN = {column: name for name, columns in _COLUMNS.items() for column in columns} | {
    "image": "labels/position",
    "view": "labels/position",
}

_PART_OF_FOLDER = {
    COMMITS: "commits",
    MEASURED: "images",
    TABLE: "images",
    LABELS: "labels/footers",
}


class ParquetBackend:
    """One store in a local folder; see ``Backend`` for the methods' contracts."""

    encoding: Encoding = "plain"
    # A row group is described in about 1,500 bytes.
    group_views = 16

    def __init__(self, path: Path | str) -> None:
        self.path: Path | str = path
        self._manifest: Manifest
        self._specs: dict[str, ArraySpec]
        self._files: OrderedDict[int, pq.ParquetFile] = OrderedDict()

    def read_manifest(self) -> Any:
        file = Path(self.path, MANIFEST)
        with files.readable(file):
            return self._parse_manifest(self._manifest_bytes(file))

    def _manifest_bytes(self, file: Path) -> bytes:
        if not file.parent.exists():
            raise NotFoundError(f"there is no store at {self.path}: check the path.")
        if not file.is_file():
            raise FormatError(
                f"{self.path} is not a labelstore store (it has no {MANIFEST}): name a folder that "
                "labelstore made."
            )
        return file.read_bytes()

    def _parse_manifest(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except ValueError as error:
            raise CorruptError(
                f"{self.path}/{MANIFEST} cannot be read as JSON ({error}): it was changed or "
                "damaged; restore it from a copy."
            ) from error

    def open_arrays(self, manifest: Manifest) -> None:
        if manifest.encoding != self.encoding:
            raise CorruptError(
                f"{self.path}: the manifest says encoding {manifest.encoding!r}, expected "
                f"{self.encoding!r} in Parquet: {MANIFEST} was exchanged; restore it from a copy."
            )
        self._manifest = manifest
        specs = (*image_arrays(manifest), *prior_arrays(manifest), *view_arrays(manifest))
        self._specs = {spec.name: spec for spec in specs}

    def open_for_writing(self, manifest: Manifest) -> None:
        """As ``open_arrays``, for a writer."""
        self.open_arrays(manifest)

    def read_keys(self) -> tuple[str, ...]:
        return tuple(self._table("key", pa.string()).to_pylist())

    def read_targets(self) -> npt.NDArray[np.int32]:
        found = self._table("target", pa.int32()).to_numpy(zero_copy_only=False)
        return np.asarray(found, dtype=np.int32)

    def read_commits(self) -> npt.NDArray[np.uint64]:
        return np.stack([self.read_commit(block) for block in range(self._manifest.num_blocks)])

    def read_commit(self, block: int) -> npt.NDArray[np.uint64]:
        columns = commit_columns(self._manifest)
        name = block_file(COMMITS, block)
        file = self._where(name)
        data = self._bytes(name)
        if data is None:
            return np.zeros(columns, dtype=np.uint64)
        row = readable_file(file, lambda: np.load(io.BytesIO(data), allow_pickle=False))
        if row.shape != (columns,) or row.dtype != np.dtype("<u8"):
            raise CorruptError(
                f"{file} holds {row.dtype} of shape {row.shape}, expected uint64 of shape "
                f"({columns},): it was changed or damaged; make that block again."
            )
        return np.asarray(row)

    def read(self, name: str, images: slice, views: slice | None) -> npt.NDArray[Any]:
        manifest = self._manifest
        block = images.start // manifest.block_images
        if views is None:
            part = block_file(MEASURED, block)
            file = self._where(part)
            table = readable_file(
                file, lambda: self._open(part).read(self._columns(name), use_threads=False)
            )
            shape: tuple[int, ...] = (images.stop - images.start,)
            return readable_file(file, lambda: self._codes(name, table, shape))
        size, parts = manifest.group_views, []
        for group in range(views.start // size, -(-views.stop // size)):
            columns = manifest.group_slice(group)
            shape = (images.stop - images.start, columns.stop - columns.start)
            parts.append(self._group(name, block, group, shape))
        return np.concatenate(parts, axis=1)

    def read_many(
        self, runs: Iterable[tuple[str, slice, slice | None]]
    ) -> Iterator[npt.NDArray[Any]]:
        return (self.read(*run) for run in runs)

    def fetch_block(self, block: int) -> None:
        """Nothing to do: the block is here."""

    def create(self, manifest: Manifest, keys: Sequence[str], targets: Any) -> None:
        opening = {"format": "labelstore", "state": "creating"}
        self._write(MANIFEST, json.dumps(opening).encode())
        table = pa.table(
            {
                "image": pa.array(np.arange(manifest.num_images, dtype=np.int32)),
                "key": pa.array(list(keys), type=pa.string()),
                "target": pa.array(np.asarray(targets, dtype=np.int32)),
            }
        )
        self._write(TABLE, file_of([table]))
        text = json.dumps(manifest.to_json(), indent=2, ensure_ascii=False)
        self._write(MANIFEST, text.encode())

    def committed(self, blocks: Sequence[int]) -> list[int]:
        folder = Path(self.path, COMMITS)
        with files.readable(folder):
            names = set(os.listdir(folder)) if folder.is_dir() else set()
        return [
            block
            for block in blocks
            if Path(block_file(COMMITS, block)).name in names and self.read_commit(block)[0]
        ]

    def write_block(
        self,
        block: int,
        arrays: Mapping[str, npt.NDArray[Any]],
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        manifest = self._manifest
        rows = manifest.block_slice(block)
        groups = [
            label_table(arrays, rows, manifest.group_slice(group))
            for group in range(manifest.num_groups)
        ]
        objects = {
            block_file(MEASURED, block): file_of([measured_table(arrays, rows)]),
            block_file(LABELS, block): file_of(groups),
        }
        self._write_objects(objects, ready)

    def write_commit(self, block: int, row: npt.NDArray[np.uint64]) -> bool:
        buffer = io.BytesIO()
        np.save(buffer, row.astype("<u8"), allow_pickle=False)
        while not self._write_new(block_file(COMMITS, block), buffer.getvalue()):
            if self.read_commit(block)[0]:
                return False
            # A row of zeros: its commit was withdrawn.
            self.withdraw_commit(block)
        return True

    def withdraw_commit(self, block: int) -> None:
        files.delete_durably(Path(self.path, block_file(COMMITS, block)))

    def bytes_by_part(self) -> dict[str, int]:
        parts: dict[str, int] = defaultdict(int)
        for name, size in self._sizes().items():
            folder = name.split("/")[0]
            if folder == LABELS:
                for part, count in self._bytes_by_column(name).items():
                    parts[part] += count
                    size -= count
            known = {
                COMMITS: COMMITS,
                MEASURED: "images",
                TABLE: "images",
                LABELS: "labels/footers",
            }
            parts[known.get(folder, "manifest")] += size
        return dict(parts)

    # What depends on where the store lies

    def _where(self, name: str) -> str:
        """A file's name in messages."""
        return f"{self.path}/{name}"

    def _bytes(self, name: str) -> bytes | None:
        """A file's bytes; None when it is not there."""
        file = Path(self.path, name)
        with files.readable(file):
            return file.read_bytes() if file.exists() else None

    def _open(self, name: str) -> pq.ParquetFile:
        return pq.ParquetFile(Path(self.path, name), **_READING)

    def _labels(self, block: int) -> pq.ParquetFile:
        """The open file of a block's labels; the last few are kept."""
        name = block_file(LABELS, block)
        opened = self._files.pop(block, None) or readable_file(
            self._where(name), lambda: self._open(name)
        )
        self._files[block] = opened
        while len(self._files) > _OPEN_FILES:
            self._files.popitem(last=False)[1].close()
        return opened

    def _write(self, name: str, data: bytes | memoryview) -> None:
        files.write_durably(Path(self.path, name), data)

    def _write_objects(self, objects: Mapping[str, Any], ready: Callable[[], None]) -> None:
        files.write_together({Path(self.path, name): data for name, data in objects.items()}, ready)

    def _write_new(self, name: str, data: bytes) -> bool:
        """Write a file that is not there; False where it is."""
        return files.write_new(Path(self.path, name), data)

    def _sizes(self) -> dict[str, int]:
        """Bytes of each of the store's files."""
        root = Path(self.path)
        return {
            file.relative_to(root).as_posix(): file.stat().st_size
            for file in root.rglob("*")
            if file.is_file() and file.suffix != files.PARTIAL
        }

    def _bytes_by_column(self, name: str) -> dict[str, int]:
        return _bytes_by_column(readable_file(self._where(name), lambda: self._open(name).metadata))

    def _table(self, column: str, kind: pa.DataType) -> pa.ChunkedArray:
        """A column of the image table; CorruptError where it is of another type or has nulls."""

        def read() -> pa.ChunkedArray:
            found = self._open(TABLE).read([column], use_threads=False)[column].cast(kind)
            if found.null_count:
                raise ValueError(f"{found.null_count} nulls in {column}")
            return found

        return readable_file(self._where(TABLE), read)

    def _group(self, name: str, block: int, group: int, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """The codes of an array of a block in one group of views: one row group."""
        opened = self._labels(block)
        return readable_file(
            self._where(block_file(LABELS, block)),
            lambda: self._codes(
                name,
                opened.read_row_group(group, self._columns(name), use_threads=False),
                shape,
            ),
        )

    def _codes(self, name: str, table: pa.Table, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """An array's codes from its columns; ValueError or KeyError when they do not fit."""
        count, spec = int(np.prod(shape)), self._specs[name]
        if table.num_rows != count:
            raise ValueError(f"{table.num_rows} rows, expected {count}")
        columns = [table[column].combine_chunks() for column in self._columns(name)]
        codes = np.full((count, *spec.shape[len(shape) :]), spec.fill, dtype=spec.dtype)
        codes = codes.reshape(count, -1)
        for place, column in enumerate(columns):
            if pa.types.is_list(column.type):
                _place_lists(codes[:, place:], column, name)
            else:
                plain = column.cast(pa.from_numpy_dtype(spec.dtype)).fill_null(spec.fill)
                codes[:, place] = plain.to_numpy(zero_copy_only=False)
        return codes.reshape((*shape, *spec.shape[len(shape) :]))

    def _columns(self, name: str) -> list[str]:
        if self._manifest.k == 1 and name == "labels/classes":
            return ["top_class"]
        return _COLUMNS[name]


def _place_lists(codes: npt.NDArray[Any], column: pa.ListArray, name: str) -> None:
    """Set codes (n, places) to the lists' values; what a label's list leaves out is 0."""
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    if int(lengths.max(initial=0)) > codes.shape[1]:
        raise ValueError(f"a list of {lengths.max()} values, expected up to {codes.shape[1]}")
    if name.startswith("labels/"):
        codes[column.is_valid().to_numpy(zero_copy_only=False)] = 0
    codes[np.arange(codes.shape[1]) < lengths[:, None]] = column.flatten().to_numpy()


def block_file(folder: str, block: int) -> str:
    """The name of one of a block's files."""
    return f"{folder}/{block:06d}.{'npy' if folder == COMMITS else 'parquet'}"


def readable_file(file: str, call: Callable[[], T]) -> T:
    # pyarrow and NumPy raise what their parsers raise: any of it means that the file is damaged.
    try:
        return call()
    except LabelStoreError:
        raise
    except Exception as error:
        refused = files.refusal(file, error)
        if refused is not None:
            raise refused from error
        text = " ".join(str(error).split())[:160] or type(error).__name__
        raise CorruptError(
            f"{file} cannot be read ({text}): it is missing, changed or damaged; make this part "
            "of the store again or restore it from a copy."
        ) from error


def _bytes_by_column(metadata: Any) -> dict[str, int]:
    parts: dict[str, int] = defaultdict(int)
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            name = chunk.path_in_schema.split(".")[0]
            parts[_PART_OF_COLUMN.get(name, "labels/other")] += chunk.total_compressed_size
    return parts
