"""The schedule: which views an image shows in which epoch. NumPy only, pure functions.

An image shows ``views_per_image`` views in every epoch that has it, and none of its views comes
again before all were shown: ``labelstore.training.walk`` has the rule and its proof. A surgical
schedule walks over the views that a rule does not discard, a random one over all. What counts is
how often an image was shown before (its showings), which is the number of the epoch unless a budget
leaves images out. Every draw is a pure function of the image's key hash, never of its position or
of the other images in the call.

Counter words of the draws besides those of the walk, under a Philox key of their own:

    budget       (position of the image, 0, cycle of the budget, 0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from labelstore.errors import UsageError
from labelstore.training.walk import Walk

if TYPE_CHECKING:
    import numpy.typing as npt

    BoolArray = npt.NDArray[np.bool_]
    Int64Array = npt.NDArray[np.int64]

__all__ = ["Schedule", "groups_of_epoch", "most_confident", "random_views", "surgical_views"]

Schedule = Literal["random", "surgical", "easy-to-hard", "hard-to-easy"]
"""Which views an image shows: drawn of all; drawn of those that pass; or by confidence."""


def random_views(
    key_hashes: npt.ArrayLike,
    showings: npt.ArrayLike,
    *,
    num_views: int,
    group_views: int,
    views_per_image: int,
    seed: int,
) -> Int64Array:
    """The views that images show, drawn, each once before any comes again.

    Args:
        key_hashes: (n,) uint64, ``philox.hash_keys`` of the images' keys.
        showings: how often each image was shown before, 0..2**32-1: one number or (n,). Without a
            budget it is the number of the epoch.
        num_views: how many views each image has.
        group_views: views of a group, the last may be smaller.
        views_per_image: how many to show, 1..num_views.
        seed: any integer.

    Returns:
        (n, views_per_image) int64 view numbers, different within a row.

    Raises:
        UsageError: numbers out of range.
    """
    walk = Walk(num_views, group_views, views_per_image, seed)
    return walk.views(np.asarray(key_hashes, dtype=np.uint64), showings, None)


def groups_of_epoch(
    epoch: int, *, num_views: int, group_views: int, views_per_image: int, seed: int
) -> Int64Array:
    """(g,) int64: the groups of views that a random epoch without a budget reads, rising; the same
    for all images.

    The arguments and errors are those of ``random_views``.
    """
    walk = Walk(num_views, group_views, views_per_image, seed)
    return np.flatnonzero(walk.groups(epoch, None, 1))


def surgical_views(
    key_hashes: npt.ArrayLike,
    showings: npt.ArrayLike,
    passes: BoolArray,
    fallback: npt.ArrayLike,
    *,
    group_views: int,
    views_per_image: int,
    seed: int,
    pace: int | None = None,
) -> Int64Array:
    """The views that images show of those that are not discarded (FerKD), each once before any
    comes again.

    An image with fewer passing views than ``views_per_image`` shows them again in turn; one without
    any shows its ``fallback``.

    Args:
        key_hashes, showings, group_views, views_per_image, seed: as for ``random_views``.
        passes: (n, num_views) bool, False where a view is discarded.
        fallback: (n, views_per_image) view numbers, as a rule ``most_confident``; looked at only
            in rows where no view passes.
        pace: how many passing views the images have that are kept together, as a rule the median;
            num_views when None. Other images are kept near them.

    Returns:
        (n, views_per_image) int64 view numbers.

    Raises:
        UsageError: numbers out of range, or arrays that do not fit each other.
    """
    hashes = np.asarray(key_hashes, dtype=np.uint64)
    shown = np.array(fallback, dtype=np.int64)
    expected = (len(hashes), views_per_image)
    if passes.ndim != 2 or len(passes) != len(hashes) or shown.shape != expected:
        raise UsageError(
            f"passes have shape {passes.shape} and fallback {shown.shape}, expected "
            f"({len(hashes)}, views) and {expected}: give one row for each image."
        )
    walk = Walk(passes.shape[1], group_views, views_per_image, seed, pace)
    some = np.flatnonzero(passes.any(axis=1))
    if len(some) < len(hashes):
        showings = np.broadcast_to(np.asarray(showings), len(hashes))[some]
        shown[some] = walk.views(hashes[some], showings, passes[some])
        return shown
    return walk.views(hashes, showings, passes)


def most_confident(confidence: npt.ArrayLike, count: int) -> Int64Array:
    """(n, count) int64: the views of largest ``confidence`` (n, num_views), falling; NaN last."""
    values = np.asarray(confidence)
    return np.argsort(-values, axis=1, kind="stable")[:, :count].astype(np.int64)
