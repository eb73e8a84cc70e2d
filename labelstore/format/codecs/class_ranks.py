"""Class ids as ranks in their image's list of likely classes.

The views of one photo say nearly the same thing, so each label's classes are mostly the head of the
image's list, in order. A class is coded as its rank among the listed classes that stand nowhere
before it in the label; a class outside the list of m as m plus its id. Common codes are then 0, and
a general compressor does the rest. With an empty list (m = 0) a code is the class id itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Int32Array = npt.NDArray[np.int32]

__all__ = ["decode", "decode_label", "encode"]

_RUN = 1 << 14


def encode(classes: npt.ArrayLike, lists: npt.ArrayLike, num_classes: int) -> Int32Array:
    """Codes of class ids.

    Args:
        classes: (n, V, k) class ids, different within a label.
        lists: (n, m) class ids of each image, different within a row; -1 for an empty place, after
            all others.
        num_classes: C.

    Returns:
        (n, V, k) int32, 0..m + C - 1; in memory as the ids lie there where there is no list.
    """
    ids = np.asarray(classes, dtype=np.int32)
    listed = np.asarray(lists, dtype=np.int32)
    size = listed.shape[1]
    if not size:
        return ids.copy(order="K")
    codes = np.empty_like(ids)
    # The last place of the table takes the empty places of a list.
    rank_of = np.full(num_classes + 1, -1, dtype=np.int32)
    for image, row in enumerate(listed):
        rank_of[row] = np.arange(size)
        rank_of[num_classes] = -1
        ranks = rank_of[ids[image]]
        before = np.zeros_like(ranks)
        for earlier in range(ids.shape[-1] - 1):
            rank = ranks[:, earlier : earlier + 1]
            before[:, earlier + 1 :] += (rank >= 0) & (rank < ranks[:, earlier + 1 :])
        codes[image] = np.where(ranks >= 0, ranks - before, ids[image] + size)
        rank_of[row] = -1
    return codes


def decode(
    codes: npt.NDArray[Any], lists: npt.ArrayLike, rows: npt.NDArray[np.int64]
) -> Int32Array:
    """Class ids of codes.

    Args:
        codes: (n, k) integers as ``encode`` gives them.
        lists: (images, m) class ids of images; -1 for an empty place.
        rows: (n,) the image of each label, as a row of ``lists``.

    Returns:
        (n, k) int32 class ids; -1 where a code names an empty place of its list.
    """
    listed = np.asarray(lists, dtype=np.int32)
    size = listed.shape[1]
    if not size:
        return codes.astype(np.int32)
    out = np.empty(codes.shape, dtype=np.int32)
    # Columns of small integers in runs that stay in the cache.
    small = np.int16 if 2 * size < np.iinfo(np.int16).max else np.int32
    flat = listed.reshape(-1)
    for start in range(0, len(codes), _RUN):
        run = slice(start, start + _RUN)
        offsets = rows[run] * size
        ranks: list[npt.NDArray[Any]] = []
        for place in range(codes.shape[1]):
            code = codes[run, place]
            inside = code < size
            # A rank beyond every list, for codes that use up none of its places.
            first = np.where(inside, code, 2 * size).astype(small)
            rank = _unused(first, ranks)
            ranks.append(np.where(inside, rank, small(2 * size)))
            listed = flat[offsets + np.minimum(rank, size - 1)]
            outside = code.astype(np.int32) - size
            out[run, place] = np.where(inside, np.where(rank < size, listed, -1), outside)
    return out


def decode_label(codes: list[int], listed: npt.NDArray[Any]) -> list[int]:
    """As ``decode``, of the stored classes of one label that is known to be one.

    Args:
        codes: of its classes, in order, those that hold nothing left out.
        listed: (m,) class ids of its image, of any integer type.
    """
    size = len(listed)
    left = listed.tolist()
    return [left.pop(code) if code < size else code - size for code in codes]


def _unused(first: npt.NDArray[Any], earlier: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """The rank that is number ``first`` among those that stand not in ``earlier``.

    It is ``first`` plus the earlier ranks up to it: a fixed point that as many steps reach as
    there are earlier ranks.
    """
    rank = first
    for _ in earlier:
        moved = first.copy()
        for used in earlier:
            moved += used <= rank
        if np.array_equal(moved, rank):
            break
        rank = moved
    return rank
