"""Digests of many pieces of bytes in one call: of units, of the rows of an index, and of chunks.

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

__all__ = ["group_digests", "piece_digests", "record_digests"]

_PART = "labelstore.format.units._unit_digests"

# Now, and not by a thread that reads ahead: a data loader that forks while one imports would leave
# its workers waiting for the import to end.
compiled_part(_PART)


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


def group_digests(
    heads: Sequence[bytes], arrays: Sequence[npt.NDArray[Any]], width: int
) -> UInt64Array:
    """(groups,) uint64: xxh3_64 of each group's head and bytes, array after array.

    Args:
        heads: of each group. arrays: (rows, ...) ones, one at least.
        width: bytes of each row that a group has; the last group of an array has what is left.

    Raises:
        ValueError: there are not as many groups as heads.
    """
    digests = np.empty(len(heads), dtype=np.uint64)
    whole = [np.ascontiguousarray(array) for array in arrays]
    compiled = _compiled()
    if compiled is not None:
        compiled.group_digests(list(heads), whole, width, digests)
        return digests
    pieces: list[bytes] = []
    for array in whole:
        rows = array.view(np.uint8).reshape(len(array), -1) if array.size else np.empty((0, 1))
        starts = range(0, rows.shape[1], width)
        pieces += [rows[:, start : start + width].tobytes() for start in starts]
    if len(pieces) != len(heads):
        raise ValueError("codes of other groups than those that have heads")
    for group, (head, piece) in enumerate(zip(heads, pieces, strict=True)):
        digests[group] = xxhash.xxh3_64_intdigest(head + piece)
    return digests


@functools.cache
def _compiled() -> Any:
    """The compiled digests; None where they were not built."""
    return compiled_part(_PART)
