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

__all__ = ["decode", "encode"]


def encode(classes: npt.ArrayLike, lists: npt.ArrayLike, num_classes: int) -> Int32Array:
    """Codes of class ids.

    Args:
        classes: (n, V, k) class ids, different within a label.
        lists: (n, m) class ids of each image, different within a row; -1 for an empty place, after
            all others.
        num_classes: C.

    Returns:
        (n, V, k) int32, 0..m + C - 1.
    """
    ids = np.asarray(classes, dtype=np.int32)
    listed = np.asarray(lists, dtype=np.int32)
    size = listed.shape[1]
    if not size:
        return ids.copy()
    codes = np.empty_like(ids)
    # The last place of the table takes the empty places of a list.
    rank_of = np.full(num_classes + 1, -1, dtype=np.int32)
    for image, row in enumerate(listed):
        rank_of[row] = np.arange(size)
        rank_of[num_classes] = -1
        ranks = rank_of[ids[image]]
        before = np.zeros_like(ranks)
        for earlier in range(ids.shape[-1] - 1):
            one = ranks[:, earlier : earlier + 1]
            before[:, earlier + 1 :] += (one >= 0) & (one < ranks[:, earlier + 1 :])
        codes[image] = np.where(ranks >= 0, ranks - before, ids[image] + size)
        rank_of[row] = -1
    return codes


def decode(codes: npt.NDArray[Any], lists: npt.ArrayLike) -> Int32Array:
    """Class ids of codes.

    Args:
        codes: (n, ..., k) integers as ``encode`` gives them.
        lists: (n, m) class ids of each label's image.

    Returns:
        (n, ..., k) int32 class ids; -1 where a code names an empty place of its list.
    """
    values = np.asarray(codes).astype(np.int32)
    listed = np.asarray(lists, dtype=np.int32)
    size = listed.shape[1]
    if not size:
        return values
    inside = values < size
    # A rank beyond every list, for codes that use up none of its places.
    ranks = np.where(inside, values, 2 * size)
    for place in range(1, values.shape[-1]):
        # The rank is the code plus the earlier ranks up to it: a fixed point that as many steps
        # reach as there are earlier ranks.
        start = values[..., place]
        rank = start
        for _ in range(place):
            rank = start + (ranks[..., :place] <= rank[..., None]).sum(axis=-1, dtype=np.int32)
        ranks[..., place] = np.where(inside[..., place], rank, 2 * size)
    rows = listed.reshape(len(listed), *[1] * (values.ndim - 2), size)
    found = np.take_along_axis(
        np.broadcast_to(rows, (*values.shape[:-1], size)), np.minimum(ranks, size - 1), axis=-1
    )
    found = np.where(ranks < size, found, -1)
    return np.where(inside, found, values - size).astype(np.int32)
