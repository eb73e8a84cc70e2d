"""What the Parquet backend's files hold: tables of a block's codes, and how they are encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

__all__ = ["EDGES", "file_of", "label_table", "measured_table"]

EDGES = ("top", "left", "height", "width")
"""The columns of a box."""

_ELEMENTS = {
    name: f"{name}.list.element"
    for name in ("rest_classes", "rest_probs", "prior_classes", "prior_probs")
}
"""Columns of lists, and Parquet's paths of their values."""


def _lists(values: npt.NDArray[Any], present: npt.NDArray[np.bool_], valid: Any = None) -> pa.Array:
    """Rows (n, places) as lists of the values that are present; null where not valid."""
    ends = np.cumsum(present.sum(axis=1))
    offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
    mask = None if valid is None else pa.array(~valid)
    return pa.ListArray.from_arrays(offsets, pa.array(values[present]), mask=mask)


def measured_table(arrays: Mapping[str, npt.NDArray[Any]], rows: slice) -> pa.Table:
    """Rows of images."""
    columns: dict[str, Any] = {
        "image": np.arange(rows.start, rows.stop, dtype=np.int32),
        "width": arrays["images/size"][:, 0],
        "height": arrays["images/size"][:, 1],
        "digest": arrays["images/digest"],
        "status": arrays["images/status"],
    }
    if "images/prior_classes" in arrays:
        classes = arrays["images/prior_classes"]
        present = classes != np.iinfo(classes.dtype).max
        columns["prior_classes"] = _lists(classes, present)
        columns["prior_probs"] = _lists(arrays["images/prior_probs"], present)
        columns["prior_power"] = arrays["images/prior_power"]
    return pa.table(columns)


def label_table(arrays: Mapping[str, npt.NDArray[Any]], rows: slice, views: slice) -> pa.Table:
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
        present = probs > 0
        columns["rest_classes"] = _lists(classes[:, 1:], present, valid)
        columns["rest_probs"] = _lists(probs, present, valid)
    if "views/box" in parts:
        columns |= {edge: parts["views/box"][:, place] for place, edge in enumerate(EDGES)}
        columns["flip"] = pa.array(parts["views/flip"] == 1, mask=~valid)
    return pa.table(columns)


def file_of(groups: Sequence[pa.Table]) -> bytes:
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
    return bytes(buffer.getvalue().to_pybytes())
