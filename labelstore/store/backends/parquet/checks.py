"""What the files of a Parquet store must be, beyond what their digests tell.

SQL engines and data frames look at rows, their numbers and whichever files are there, and know
nothing of commits. So these are checked, too, wherever this library reads: a store that it takes
for whole gives others the same labels.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from labelstore.format.arrays import image_arrays, prior_arrays, view_arrays
from labelstore.storage.untrusted import check_expansion
from labelstore.store.backends.npy_header import HEADER_BYTES, ArrayHeader, array_header
from labelstore.store.backends.parquet.tables import label_table, measured_table

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest
    from labelstore.storage.parquet.footer import OpenFile

__all__ = [
    "check_footer",
    "check_numbers",
    "commit_row",
    "label_schema",
    "measured_schema",
    "stray_files",
    "table_schema",
]


def table_schema() -> pa.Schema:
    """Columns of the table of images."""
    return pa.schema({"image": pa.int32(), "key": pa.string(), "target": pa.int32()})


def measured_schema(manifest: Manifest) -> pa.Schema:
    """Columns of a block's measured images."""
    specs = (*image_arrays(manifest), *prior_arrays(manifest))
    arrays = {spec.name: np.empty((0, *spec.shape[1:]), spec.dtype) for spec in specs}
    return measured_table(arrays, slice(0, 0)).schema


def label_schema(manifest: Manifest) -> pa.Schema:
    """Columns of a block's labels."""
    arrays = {
        spec.name: np.empty((0, 1, *spec.shape[2:]), spec.dtype) for spec in view_arrays(manifest)
    }
    return label_table(arrays, slice(0, 0), slice(0, 1)).schema


def check_footer(opened: OpenFile, schema: pa.Schema, rows: list[int] | None = None) -> list[int]:
    """ValueError unless a file has these columns, and row groups of so many rows.

    Args:
        opened: the file. rows: of each row group; any when None.

    Returns:
        the rows of each row group.
    """
    file_schema, groups = opened.file.schema_arrow, opened.groups
    columns = [(field.name, _kind(field.type)) for field in file_schema]
    expected = [(field.name, _kind(field.type)) for field in schema]
    if columns != expected:
        raise ValueError(f"its columns are {str(columns)[:160]}, expected {str(expected)[:160]}")
    counts = [group.rows for group in groups]
    if rows is not None and counts != rows:
        raise ValueError(f"its row groups have {counts[:8]} rows, expected {rows[:8]}")
    for group in groups:
        for column in group.columns:
            check_expansion(max(column.uncompressed, 8 * column.values), opened.size)
    return counts


def _kind(kind: pa.DataType) -> str:
    """A type's name, whatever a list calls its values."""
    return f"list of {kind.value_type}" if pa.types.is_list(kind) else str(kind)


def check_numbers(
    table: pa.Table, images: npt.NDArray[np.int64], views: npt.NDArray[np.int64] | None = None
) -> None:
    """ValueError unless rows say that they are these images, and views of them.

    Args:
        table: with a column ``image``, and ``view`` where there are ``views``.
        images, views: (rows,) numbers in order.
    """
    for name, numbers in (("image", images), ("view", views)):
        if numbers is not None and not np.array_equal(_integers(table[name]), numbers):
            raise ValueError(f"its rows are not those of these images: the column {name} differs")


def _integers(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    if column.null_count:
        raise ValueError("a row has no number")
    return np.asarray(column.to_numpy(zero_copy_only=False))


def commit_row(data: bytes, columns: int) -> npt.NDArray[np.uint64]:
    """(columns,) commit row from its file; ValueError, or what else comes of it, for other bytes.

    NumPy's own reader takes archives and Python objects, too.
    """
    header = array_header(data[:HEADER_BYTES])
    expected = ArrayHeader(np.dtype("<u8"), (columns,), False, header.start)
    if header != expected or len(data) != header.start + 8 * columns:
        raise ValueError(
            f"{header.dtype} {header.shape} in {len(data)} bytes, expected {columns} digests"
        )
    return np.frombuffer(data, "<u8", columns, header.start).copy()


def stray_files(names: Iterable[str], known: set[str]) -> list[str]:
    """Which of a store's files others would read along with its own.

    Args:
        names: paths inside the store. known: those that the manifest implies.
    """
    folders = {os.path.dirname(name) for name in known} - {""}
    return sorted(
        name
        for name in names
        if name not in known
        and name.split("/")[0] in folders
        and not name.endswith(".partial")
        and not os.path.basename(name).startswith(".")
    )
