"""What the bytes of records are to the code of units: planes, each with its prefix codes; and what
is decoded at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    UInt8Array = npt.NDArray[np.uint8]
    Int64Array = npt.NDArray[np.int64]

__all__ = ["MOST_LABELS", "WIDE", "Plane", "Units", "tables_of", "values_of"]

WIDE = 255
"""In a wide plane, the value after which 16 bits follow."""

MOST_LABELS = 1 << 24
"""Labels of a unit, at most: no writer's limit, but one for numbers that are damaged."""


@dataclass(frozen=True)
class Plane:
    """One byte of all labels' records, or two that are coded as one value.

    Attributes:
        array: the number of the array that it is of.
        byte: its place in the record; of two bytes the first, the lower one.
        table: the number of its code, or of the first of several.
        tables: how many codes it has.
        context: the place in the record of the byte that says which of several codes a value has
            (the last for all values beyond); None for one code.
        wide: whether it is a little-endian uint16. Values below 255 are coded as bytes; others as
            255, and 16 bits behind it, the highest first.
    """

    array: int
    byte: int
    table: int
    tables: int = 1
    context: int | None = None
    wide: bool = False


@dataclass(frozen=True)
class Units:
    """Units of one or several shards.

    Attributes:
        data: their bytes, one unit after another, and nothing or anything behind them.
        sizes: (n,) int64 bytes of each.
        labels: (n,) int64 labels of each.
        shards: (n,) int64, the shard of each, from 0 and never falling.
    """

    data: bytes | memoryview | UInt8Array
    sizes: Int64Array
    labels: Int64Array
    shards: Int64Array


def values_of(plane: Plane, records: UInt8Array) -> npt.NDArray[Any]:
    """(n,) the values of a plane."""
    low = records[:, plane.byte]
    if not plane.wide:
        return low
    return low | records[:, plane.byte + 1].astype(np.uint16) << 8


def tables_of(plane: Plane, records: UInt8Array) -> npt.NDArray[Any]:
    """(n,) the code that each value of a plane has."""
    if plane.context is None:
        return np.full(len(records), plane.table)
    return plane.table + np.minimum(records[:, plane.context], plane.tables - 1).astype(np.int64)
