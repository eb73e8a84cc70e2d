"""The Parquet backend: one row a view, plain class ids and probabilities, for SQL and data frames.

A folder of Parquet files. A block's labels are one file whose row groups are groups of views; page
checksums are written, and verified when read. Lists leave out places that hold no class, and an
image that could not be read has rows of nulls.
"""

from __future__ import annotations

import functools
import io
import json
from collections import OrderedDict, defaultdict
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from labelstore import files
from labelstore.backends.base import commit_columns, image_arrays, prior_arrays, view_arrays
from labelstore.errors import CorruptError, FormatError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.backends.base import ArraySpec
    from labelstore.manifest import Encoding, Manifest

__all__ = ["ParquetBackend"]

T = TypeVar("T")

MANIFEST, TABLE = "manifest.json", "images.parquet"
LABELS, MEASURED, COMMITS = "labels", "measured", "commits"

_OPEN_FILES = 16
_EDGES = ("top", "left", "height", "width")

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
    "views/box": list(_EDGES),
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

_ELEMENTS = {
    name: f"{name}.list.element"
    for name in ("rest_classes", "rest_probs", "prior_classes", "prior_probs")
}
"""Columns of lists, and Parquet's paths of their values."""


class ParquetBackend:
    """One store in a local folder; see ``Backend`` for the methods' contracts."""

    encoding: Encoding = "plain"
    # A row group is described in about 1,500 bytes.
    group_views = 16

    def __init__(self, path: Path) -> None:
        self.path = path
        self._manifest: Manifest
        self._specs: dict[str, ArraySpec]
        self._files: OrderedDict[int, pq.ParquetFile] = OrderedDict()

    def read_manifest(self) -> Any:
        file = self.path / MANIFEST
        if not self.path.exists():
            raise NotFoundError(f"there is no store at {self.path}: check the path.")
        if not file.is_file():
            raise FormatError(
                f"{self.path} is not a labelstore store (it has no {MANIFEST}): name a folder that "
                "labelstore made."
            )
        try:
            return json.loads(file.read_bytes())
        except ValueError as error:
            raise CorruptError(
                f"{file} cannot be read as JSON ({error}): it was changed or damaged; restore it "
                "from a copy."
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
        manifest = self._manifest
        columns = commit_columns(manifest)
        rows = np.zeros((manifest.num_blocks, columns), dtype=np.uint64)
        for block in range(manifest.num_blocks):
            file = self._block_file(COMMITS, block)
            if not file.exists():
                continue
            row = _readable(file, functools.partial(np.load, file, allow_pickle=False))
            if row.shape != (columns,) or row.dtype != np.dtype("<u8"):
                raise CorruptError(
                    f"{file} holds {row.dtype} of shape {row.shape}, expected uint64 of shape "
                    f"({columns},): it was changed or damaged; make that block again."
                )
            rows[block] = row
        return rows

    def read(self, name: str, images: slice, views: slice | None) -> npt.NDArray[Any]:
        manifest = self._manifest
        block = images.start // manifest.block_images
        if views is None:
            file = self._block_file(MEASURED, block)
            table = _readable(
                file, lambda: _open(file).read(self._columns(name), use_threads=False)
            )
            shape: tuple[int, ...] = (images.stop - images.start,)
            return _readable(file, lambda: self._codes(name, table, shape))
        size, parts = manifest.group_views, []
        for group in range(views.start // size, -(-views.stop // size)):
            columns = manifest.group_slice(group)
            shape = (images.stop - images.start, columns.stop - columns.start)
            parts.append(self._group(name, block, group, shape))
        return np.concatenate(parts, axis=1)

    def create(self, manifest: Manifest, keys: Sequence[str], targets: Any) -> None:
        opening = {"format": "labelstore", "state": "creating"}
        files.write_durably(self.path / MANIFEST, json.dumps(opening).encode())
        table = pa.table(
            {
                "image": pa.array(np.arange(manifest.num_images, dtype=np.int32)),
                "key": pa.array(list(keys), type=pa.string()),
                "target": pa.array(np.asarray(targets, dtype=np.int32)),
            }
        )
        files.write_durably(self.path / TABLE, _file_of([table]))
        text = json.dumps(manifest.to_json(), indent=2, ensure_ascii=False)
        files.write_durably(self.path / MANIFEST, text.encode())

    def write_block(self, block: int, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        manifest = self._manifest
        rows = manifest.block_slice(block)
        for folder in (MEASURED, LABELS):
            files.delete_file(self._block_file(folder, block))
        measured = _measured_table(arrays, rows)
        files.write_durably(self._block_file(MEASURED, block), _file_of([measured]))
        groups = [
            _label_table(arrays, rows, manifest.group_slice(group))
            for group in range(manifest.num_groups)
        ]
        files.write_durably(self._block_file(LABELS, block), _file_of(groups))

    def write_commit(self, block: int, row: npt.NDArray[np.uint64]) -> None:
        buffer = io.BytesIO()
        np.save(buffer, row.astype("<u8"), allow_pickle=False)
        files.write_durably(self._block_file(COMMITS, block), buffer.getvalue())

    def withdraw_commit(self, block: int) -> None:
        files.delete_durably(self._block_file(COMMITS, block))

    def bytes_by_part(self) -> dict[str, int]:
        parts: dict[str, int] = defaultdict(int)
        for file in self.path.rglob("*"):
            if not file.is_file() or file.suffix == files.PARTIAL:
                continue
            folder, size = file.relative_to(self.path).parts[0], file.stat().st_size
            if folder == LABELS:
                for part, count in _bytes_by_column(file).items():
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

    def _block_file(self, folder: str, block: int) -> Path:
        suffix = "npy" if folder == COMMITS else "parquet"
        return self.path / folder / f"{block:06d}.{suffix}"

    def _table(self, column: str, kind: pa.DataType) -> pa.ChunkedArray:
        """A column of the image table; CorruptError where it is of another type or has nulls."""
        file = self.path / TABLE

        def read() -> pa.ChunkedArray:
            found = _open(file).read([column], use_threads=False)[column].cast(kind)
            if found.null_count:
                raise ValueError(f"{found.null_count} nulls in {column}")
            return found

        return _readable(file, read)

    def _group(self, name: str, block: int, group: int, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """The codes of an array of a block in one group of views: one row group."""
        file = self._block_file(LABELS, block)
        opened = self._files.pop(block, None) or _readable(file, lambda: _open(file))
        self._files[block] = opened
        while len(self._files) > _OPEN_FILES:
            self._files.popitem(last=False)[1].close()
        return _readable(
            file,
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


def _lists(values: npt.NDArray[Any], held: npt.NDArray[np.bool_], valid: Any = None) -> pa.Array:
    """Rows (n, places) as lists of the values that are held; null where not valid."""
    ends = np.cumsum(held.sum(axis=1))
    offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
    mask = None if valid is None else pa.array(~valid)
    return pa.ListArray.from_arrays(offsets, pa.array(values[held]), mask=mask)


def _measured_table(arrays: Mapping[str, npt.NDArray[Any]], rows: slice) -> pa.Table:
    columns: dict[str, Any] = {
        "image": np.arange(rows.start, rows.stop, dtype=np.int32),
        "width": arrays["images/size"][:, 0],
        "height": arrays["images/size"][:, 1],
        "digest": arrays["images/digest"],
        "status": arrays["images/status"],
    }
    if "images/prior_classes" in arrays:
        classes = arrays["images/prior_classes"]
        held = classes != np.iinfo(classes.dtype).max
        columns["prior_classes"] = _lists(classes, held)
        columns["prior_probs"] = _lists(arrays["images/prior_probs"], held)
        columns["prior_power"] = arrays["images/prior_power"]
    return pa.table(columns)


def _label_table(arrays: Mapping[str, npt.NDArray[Any]], rows: slice, views: slice) -> pa.Table:
    """Rows (image, view), the views of an image beside each other."""
    count, width = rows.stop - rows.start, views.stop - views.start
    parts = {
        name: codes[:, views].reshape(count * width, *codes.shape[2:])
        for name, codes in arrays.items()
        if not name.startswith("images/")
    }
    classes = parts["labels/classes"]
    valid = classes[:, 0] != np.iinfo(classes.dtype).max
    image = np.repeat(np.arange(rows.start, rows.stop, dtype=np.int32), width)
    columns: dict[str, Any] = {
        "image": image,
        "view": np.tile(np.arange(views.start, views.stop, dtype=np.int32), count),
        "top_class": pa.array(classes[:, 0], mask=~valid),
        "top_prob": pa.array(parts["labels/top_prob"], mask=~valid),
    }
    if "labels/rest_probs" in parts:
        probs = parts["labels/rest_probs"]
        held = probs > 0
        columns["rest_classes"] = _lists(classes[:, 1:], held, valid)
        columns["rest_probs"] = _lists(probs, held, valid)
    if "views/box" in parts:
        columns |= {edge: parts["views/box"][:, place] for place, edge in enumerate(_EDGES)}
        columns["flip"] = pa.array(parts["views/flip"] == 1, mask=~valid)
    return pa.table(columns)


def _file_of(groups: Sequence[pa.Table]) -> memoryview:
    """A Parquet file with one row group for each table."""
    buffer = pa.BufferOutputStream()
    names = groups[0].column_names
    packed = [name for name in ("image", "view") if name in names and len(names) > 3]
    split = [_ELEMENTS.get(name, name) for name in ("rest_probs",) if name in names]
    encoded = {*packed, "rest_probs"}
    with pq.ParquetWriter(
        buffer,
        groups[0].schema,
        compression="zstd",
        compression_level=5,
        write_page_checksum=True,
        use_dictionary=[_ELEMENTS.get(name, name) for name in names if name not in encoded],
        # Products of shares have many values: their bytes are alike where the numbers are not.
        use_byte_stream_split=split,
        column_encoding=dict.fromkeys(packed, "DELTA_BINARY_PACKED"),
        write_statistics=[name for name in names if name not in _ELEMENTS],
    ) as writer:
        for table in groups:
            writer.write_table(table, row_group_size=max(table.num_rows, 1))
    return memoryview(buffer.getvalue())


def _open(file: Path) -> pq.ParquetFile:
    return pq.ParquetFile(file, page_checksum_verification=True, memory_map=False, pre_buffer=False)


def _readable(file: Path, call: Callable[[], T]) -> T:
    # pyarrow and NumPy raise what their parsers raise: any of it means that the file is damaged.
    try:
        return call()
    except Exception as error:
        text = " ".join(str(error).split())[:160] or type(error).__name__
        raise CorruptError(
            f"{file} cannot be read ({text}): it is missing, changed or damaged; make this part "
            "of the store again or restore it from a copy."
        ) from error


def _bytes_by_column(file: Path) -> dict[str, int]:
    metadata = _readable(file, lambda: pq.read_metadata(file))
    parts: dict[str, int] = defaultdict(int)
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            name = chunk.path_in_schema.split(".")[0]
            parts[_PART_OF_COLUMN.get(name, "labels/other")] += chunk.total_compressed_size
    return parts
