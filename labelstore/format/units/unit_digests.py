"""Digests of many pieces of some hundred bytes in one call: of units, and of the rows of an index.

The compiled part (``_unit_digests.c``) takes them without the interpreter; without it xxhash does,
one by one, with the same result.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from labelstore.compiled import compiled_part

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Int64Array = npt.NDArray[np.int64]
    UInt64Array = npt.NDArray[np.uint64]

__all__ = ["piece_digests", "record_digests"]


def record_digests(
    arrays: Sequence[npt.NDArray[Any]], widths: Int64Array, labels: Int64Array, seeds: UInt64Array
) -> UInt64Array:
    """(units,) uint64: of each unit xxh3_64 of its labels' records with its seed.

    Args:
        arrays: contiguous (sum of labels, ...) ones, unit after unit; a record is a label's bytes
            of each in order. widths: (arrays,) int64 bytes of a label in each.
        labels: (units,) int64 labels of each. seeds: (units,) uint64 of each.

    Raises:
        ValueError: the arrays do not have so many labels.
    """
    labels = np.ascontiguousarray(labels, dtype=np.int64)
    seeds = np.ascontiguousarray(seeds, dtype=np.uint64)
    digests = np.empty(len(labels), dtype=np.uint64)
    compiled = _compiled()
    if compiled is not None:
        compiled.digests(tuple(arrays), widths, labels, seeds, digests)
        return digests
    if len(seeds) != len(labels) or (labels < 0).any() or labels.sum() != len(arrays[0]):
        raise ValueError("labels of units do not fit their codes")
    parts = [array.view(np.uint8).reshape(len(array), -1) for array in arrays]
    view = (parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)).data.cast("B")
    record = int(widths.sum())
    ends = np.cumsum(labels) * record
    starts = ends - labels * record
    for unit, (start, end, seed) in enumerate(
        zip(starts.tolist(), ends.tolist(), seeds.tolist(), strict=True)
    ):
        digests[unit] = xxhash.xxh3_64_intdigest(view[start:end], seed)
    return digests


def piece_digests(pieces: Sequence[bytes | memoryview]) -> UInt64Array:
    """(n,) uint64: xxh3_64 of each of some pieces of bytes."""
    sizes = np.fromiter(map(len, pieces), np.int64, len(pieces))
    data = np.frombuffer(b"".join(pieces), np.uint8)
    return record_digests([data], np.ones(1, np.int64), sizes, np.zeros(len(sizes), np.uint64))


@functools.cache
def _compiled() -> Any:
    """The compiled digests of units; None where they were not built."""
    return compiled_part("labelstore.format.units._unit_digests")
