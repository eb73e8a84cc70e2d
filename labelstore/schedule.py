"""The schedule: which views an image shows in which epoch. NumPy only, pure functions.

A cycle is ``num_views // views_per_image`` epochs. Within a cycle no image shows a view twice, so
when ``views_per_image`` divides ``num_views`` every view is shown exactly once before any comes
again; when it does not, each cycle leaves ``num_views % views_per_image`` views of each image out,
others in every cycle. Cycles do not share an epoch, so no view stands twice in an epoch either.

Layout follows use: in one cycle all images take the groups of views in the same order, drawn from
(seed, cycle), so that an epoch reads few groups; inside a group each image has an order of its own,
drawn from (seed, cycle, image). Every draw is a pure function of the image's key hash, never of its
position or of the other images in the call.

Counter words of the draws, each under a Philox key of its own (``mixed_seed``), so that no stream
meets another or that of the view law:

    groups       (position of the group, 0, cycle, 0)
    order        (hash low, hash high, cycle, view // 4), output word view % 4
    replacement  (hash low, hash high, epoch, view // 4), output word view % 4
    budget       (position of the image, 0, cycle of the budget, 0)
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xxhash

from labelstore.errors import UsageError
from labelstore.philox import permutation, philox4x32

if TYPE_CHECKING:
    import numpy.typing as npt

    BoolArray = npt.NDArray[np.bool_]
    Int64Array = npt.NDArray[np.int64]

__all__ = [
    "Schedule",
    "budget_images",
    "budget_share",
    "groups_of_epoch",
    "mixed_seed",
    "most_confident",
    "random_views",
    "surgical_views",
]

Schedule = Literal["random", "surgical", "easy-to-hard", "hard-to-easy"]
"""Which views an image shows: drawn; drawn, with discarded ones replaced; or by confidence."""

_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_NEVER = np.uint64(1 << 32)
"""Above every 32-bit word: sorts behind all candidates."""


def mixed_seed(purpose: str, seed: int) -> int:
    """A Philox key for one purpose: xxh3_64 of a text that names the purpose and the seed."""
    return int(xxhash.xxh3_64_intdigest(f"labelstore schedule 1 {purpose} {seed}".encode()))


def random_views(
    key_hashes: npt.ArrayLike,
    epoch: int,
    *,
    num_views: int,
    group_views: int,
    views_per_image: int,
    seed: int,
) -> Int64Array:
    """The views that images show in an epoch.

    Args:
        key_hashes: (n,) uint64, ``philox.hash_keys`` of the images' keys.
        epoch: 0..2**32-1.
        num_views: how many views each image has.
        group_views: views of a group, the last may be smaller.
        views_per_image: how many to show, 1..num_views.
        seed: any integer.

    Returns:
        (n, views_per_image) int64 view numbers, different within a row.

    Raises:
        UsageError: numbers out of range.
    """
    hashes = np.asarray(key_hashes, dtype=np.uint64)
    plan = _plan(epoch, num_views, group_views, views_per_image, seed)
    out = np.empty((len(hashes), views_per_image), dtype=np.int64)
    column = 0
    for run in plan.runs:
        views = np.arange(run.first_view, run.first_view + run.size)
        words = _words(hashes, plan.cycle, views, mixed_seed("order", seed))
        order = np.argsort(words, axis=1, kind="stable")
        count = run.stop - run.start
        out[:, column : column + count] = views[order[:, run.start : run.stop]]
        column += count
    return out


def groups_of_epoch(
    epoch: int, *, num_views: int, group_views: int, views_per_image: int, seed: int
) -> Int64Array:
    """(g,) int64: the groups of views that an epoch reads, in order; the same for all images.

    The arguments and errors are those of ``random_views``.
    """
    runs = _plan(epoch, num_views, group_views, views_per_image, seed).runs
    return np.array([run.first_view // group_views for run in runs], dtype=np.int64)


def surgical_views(
    key_hashes: npt.ArrayLike,
    epoch: int,
    passes: BoolArray,
    fallback: npt.ArrayLike,
    *,
    group_views: int,
    views_per_image: int,
    seed: int,
) -> Int64Array:
    """The views that images show in an epoch, discarded ones replaced (FerKD).

    Scheduled views that pass stay where they are. A discarded one is replaced by a passing view of
    the groups that this epoch reads anyway, else by a passing view from elsewhere; both are drawn
    for each image and epoch, and none is shown twice. An image with fewer passing views than
    ``views_per_image`` shows them again in turn; one without any shows its ``fallback``.

    Args:
        key_hashes, epoch, group_views, views_per_image, seed: as for ``random_views``.
        passes: (n, num_views) bool, False where a view is discarded.
        fallback: (n, views_per_image) view numbers, as a rule ``most_confident``; looked at only
            in rows where no view passes.

    Returns:
        (n, views_per_image) int64 view numbers.

    Raises:
        UsageError: numbers out of range, or arrays that do not fit each other.
    """
    hashes = np.asarray(key_hashes, dtype=np.uint64)
    last_resort = np.asarray(fallback, dtype=np.int64)
    expected = (len(hashes), views_per_image)
    if passes.ndim != 2 or len(passes) != len(hashes) or last_resort.shape != expected:
        raise UsageError(
            f"passes have shape {passes.shape} and fallback {last_resort.shape}, expected "
            f"({len(hashes)}, views) and {expected}: give one row for each image."
        )
    num_views = passes.shape[1]
    sizes = {"num_views": num_views, "group_views": group_views, "views_per_image": views_per_image}
    shown = random_views(hashes, epoch, **sizes, seed=seed)
    vacant = ~np.take_along_axis(passes, shown, axis=1)
    groups = groups_of_epoch(epoch, **sizes, seed=seed)
    loaded = (groups[:, None] * group_views + np.arange(group_views)).reshape(-1)
    for views in (loaded[loaded < num_views], np.arange(num_views)):
        rows = np.flatnonzero(vacant.any(axis=1))
        if not rows.size:
            return shown
        available = passes[rows]
        np.put_along_axis(available, shown[rows], False, axis=1)
        words = _words(hashes[rows], epoch, views, mixed_seed("replacement", seed))
        shown[rows], vacant[rows] = _fill(
            shown[rows], vacant[rows], available[:, views], words, views
        )
    rows = np.flatnonzero(vacant.any(axis=1))
    shown[rows] = _repeat(shown[rows], vacant[rows], last_resort[rows])
    return shown


def budget_share(budget: float, count: int) -> Fraction:
    """A budget as a fraction p / q, so that whole numbers of epochs show each image.

    Args:
        budget: share of the images that an epoch shows, in (0, 1].
        count: how many images there are.

    Returns:
        the nearest fraction with a denominator of at most 100.

    Raises:
        UsageError: out of range, or so small that epochs would show no image.
    """
    numeric = isinstance(budget, numbers.Real) and 0 < budget <= 1
    share = Fraction(budget).limit_denominator(100) if numeric else Fraction(0)
    if not share:
        raise UsageError(f"budget is {budget!r}, expected a share of the images from 0.01 to 1.")
    if share * count < 1:
        raise UsageError(
            f"a budget of {budget} of {count} images leaves epochs without any, expected at least "
            f"one image: choose at least {1 / count:.3g}."
        )
    return share


def budget_images(count: int, epoch: int, share: tuple[int, int], seed: int) -> Int64Array:
    """Which of ``count`` images an epoch shows when only a share of them is to be shown.

    For a share p / q, a cycle is q epochs. The images stand on a ring in an order drawn from
    (seed, cycle), and epoch e of the cycle takes the places from ``floor(e count p / q)`` to
    ``floor((e + 1) count p / q) - 1``, going round p times in all: every image is shown in exactly
    p epochs of the cycle and never twice in one.

    Args:
        count: how many images there are, at least 1.
        epoch: 0..2**32-1.
        share: p and q with 1 <= p <= q.
        seed: any integer.

    Returns:
        (n,) int64, rising, n being ``count p / q`` rounded down or up, the same for any ranks.

    Raises:
        UsageError: numbers out of range.
    """
    p, q = share
    if not 0 <= epoch < 2**32:
        raise UsageError(f"epoch is {epoch}, expected 0 to 2**32-1.")
    if count < 1 or not 1 <= p <= q:
        raise UsageError(
            f"a share of {p} / {q} of {count} images was asked for, expected at least one image "
            "and a share above 0 and up to 1."
        )
    cycle, step = divmod(epoch, q)
    ring = permutation(count, mixed_seed("budget", seed), (cycle, 0))
    places = np.arange(step * count * p // q, (step + 1) * count * p // q) % count
    return np.sort(ring[places])


def most_confident(confidence: npt.ArrayLike, count: int) -> Int64Array:
    """(n, count) int64: the views of largest ``confidence`` (n, num_views), falling; NaN last."""
    values = np.asarray(confidence)
    return np.argsort(-values, axis=1, kind="stable")[:, :count].astype(np.int64)


@dataclass(frozen=True)
class _Run:
    """Consecutive places of one group's order."""

    first_view: int
    size: int
    start: int
    stop: int


@dataclass(frozen=True)
class _Plan:
    cycle: int
    runs: list[_Run]


def _plan(epoch: int, num_views: int, group_views: int, views_per_image: int, seed: int) -> _Plan:
    """What all images of an epoch have in common."""
    if not 0 <= epoch < 2**32:
        raise UsageError(f"epoch is {epoch}, expected 0 to 2**32-1.")
    if group_views < 1 or num_views < 1:
        raise UsageError(
            f"{num_views} views in groups of {group_views} were given, expected at least 1 each."
        )
    if not 1 <= views_per_image <= num_views:
        raise UsageError(
            f"views per image is {views_per_image}, expected 1 to {num_views}, the views that are "
            "stored of each image: choose a number in that range."
        )
    cycle, step = divmod(epoch, num_views // views_per_image)
    num_groups = -(-num_views // group_views)
    order = permutation(num_groups, mixed_seed("groups", seed), (cycle, 0))
    runs: list[_Run] = []
    low, high, passed = step * views_per_image, (step + 1) * views_per_image, 0
    for group in order.tolist():
        first_view = group * group_views
        size = min(group_views, num_views - first_view)
        start, stop = max(low - passed, 0), min(high - passed, size)
        if start < stop:
            runs.append(_Run(first_view, size, start, stop))
        passed += size
    return _Plan(cycle, runs)


def _words(
    hashes: npt.NDArray[np.uint64], draw: int, views: Int64Array, key: int
) -> npt.NDArray[np.uint32]:
    """(n, len(views)) uint32: one random word for each image and view."""
    quads, place = np.unique(views >> 2, return_inverse=True)
    low, high = (hashes & _LOW)[:, None], (hashes >> _SHIFT)[:, None]
    words = np.stack(philox4x32((low, high, draw, quads), key), axis=-1)
    return words[:, place, views & 3]


def _fill(
    shown: Int64Array,
    vacant: BoolArray,
    available: BoolArray,
    words: npt.NDArray[np.uint32],
    views: Int64Array,
) -> tuple[Int64Array, BoolArray]:
    """Vacant places of each row taken by its available views, smallest word first."""
    ranked = np.argsort(np.where(available, words.astype(np.uint64), _NEVER), axis=1, kind="stable")
    turn = np.cumsum(vacant, axis=1) - 1
    filled = vacant & (turn < available.sum(axis=1, keepdims=True))
    places = np.where(filled, turn, 0)
    picked = views[np.take_along_axis(ranked, places, axis=1)]
    return np.where(filled, picked, shown), vacant & ~filled


def _repeat(shown: Int64Array, vacant: BoolArray, fallback: Int64Array) -> Any:
    """Vacant places of each row taken by its shown views in turn, or by the fallback."""
    occupied = vacant.shape[1] - vacant.sum(axis=1, keepdims=True)
    sources = np.argsort(vacant, axis=1, kind="stable")
    turn = np.where(vacant, np.cumsum(vacant, axis=1) - 1, 0) % np.maximum(occupied, 1)
    again = np.take_along_axis(shown, np.take_along_axis(sources, turn, axis=1), axis=1)
    return np.where(occupied == 0, fallback, np.where(vacant, again, shown))
