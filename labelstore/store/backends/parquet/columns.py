"""Which columns of the Parquet backend's files hold each array, and the array's codes in them."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from labelstore.format.arrays import image_arrays, prior_arrays, view_arrays
from labelstore.storage.untrusted import check_expansion
from labelstore.store.backends.parquet.tables import EDGES

if TYPE_CHECKING:
    import numpy.typing as npt

    from labelstore.format.manifest import Manifest
    from labelstore.storage.parquet.footer import OpenFile

__all__ = ["ArrayColumns", "bytes_by_array"]

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

_ARRAY_OF_COLUMN = {column: name for name, columns in _COLUMNS.items() for column in columns} | {
    "image": "labels/position",
    "view": "labels/position",
}


class ArrayColumns:
    """The columns of one store's arrays."""

    def __init__(self, manifest: Manifest) -> None:
        """Of a store in Parquet."""
        specs = (*image_arrays(manifest), *prior_arrays(manifest), *view_arrays(manifest))
        self._specs = {spec.name: spec for spec in specs}
        self._one_class = manifest.k == 1

    def of(self, name: str) -> list[str]:
        """The columns that hold an array."""
        if self._one_class and name == "labels/classes":
            return ["top_class"]
        return _COLUMNS[name]

    def codes(
        self, name: str, table: pa.Table, shape: tuple[int, ...], size: int
    ) -> npt.NDArray[Any]:
        """An array's codes from its columns.

        Args:
            name: the array's. table: a row for each place of ``shape``. size: bytes of its file.

        Returns:
            shape, and what the array has for each place, in the array's dtype.

        Raises:
            ValueError, KeyError: the columns do not fit the array.
        """
        count, spec = math.prod(shape), self._specs[name]
        check_expansion(count * math.prod(spec.shape[len(shape) :]) * spec.dtype.itemsize, size)
        if table.num_rows != count:
            raise ValueError(f"{table.num_rows} rows, expected {count}")
        columns = [table[column].combine_chunks() for column in self.of(name)]
        codes = np.full((count, *spec.shape[len(shape) :]), spec.fill, dtype=spec.dtype)
        codes = codes.reshape(count, -1)
        for place, column in enumerate(columns):
            if pa.types.is_list(column.type):
                _place_lists(codes[:, place:], column, name)
            else:
                plain = column.cast(pa.from_numpy_dtype(spec.dtype)).fill_null(spec.fill)
                codes[:, place] = plain.to_numpy(zero_copy_only=False)
        return codes.reshape((*shape, *spec.shape[len(shape) :]))


def _place_lists(codes: npt.NDArray[Any], column: pa.ListArray, name: str) -> None:
    """Set codes (n, places) to the lists' values; what a label's list leaves out is 0."""
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    if int(lengths.max(initial=0)) > codes.shape[1]:
        raise ValueError(f"a list of {lengths.max()} values, expected up to {codes.shape[1]}")
    if name.startswith("labels/"):
        codes[column.is_valid().to_numpy(zero_copy_only=False)] = 0
    codes[np.arange(codes.shape[1]) < lengths[:, None]] = column.flatten().to_numpy()


def bytes_by_array(opened: OpenFile) -> dict[str, int]:
    """Bytes on disk of each array in a file of labels, as its footer says."""
    parts: dict[str, int] = defaultdict(int)
    for group in opened.groups:
        for column in group.columns:
            parts[_ARRAY_OF_COLUMN.get(column.name, "labels/other")] += column.compressed
    return parts
