"""The walk: the endless sequence of views that an image shows, a few in every epoch. NumPy only.

An image walks over its passing views (all of them, where none are discarded). The walk is a chain
of cycles, each of which has every passing view once; showing number s of m views takes its places
s m to s m + m - 1. So at every moment the passing views of an image have been shown equally often,
but for one: none comes again before all were shown, whether or not m divides their number P.

Layout follows use: views are ordered by units, which are the store's groups of views (its halves,
where it has one group), and inside a unit each image has an order of its own, drawn from (seed,
cycle, image). The order of the units is the same for all images, so that an epoch reads few groups:

- Where all views pass, the units are in two halves, drawn from the seed. A cycle shows the first
  half, then the second; inside a half the order of units is drawn from (seed, cycle).
- Else images have different numbers of passing views, and so go round at different speeds. The
  units stand on a ring, drawn from the seed, and a cycle goes once round it. Where a cycle begins
  keeps the images together: a common hand goes round the ring while an image of ``pace`` views, the
  store's median, would; an image begins its cycle at the one of K marks, equally far apart, from
  which its middle falls next to where the hand then is. K is the largest of 8, 4, 2, 1 for which
  between any two marks lie at least 2 m + w - 1 passing views of the image (w: a unit's width).

What that gives at the border of two cycles: between two showings of a view stand at least all
views of the other half, or those between two marks but for w - 1 (with one mark: all). Where either
half has fewer than 2 m - 1 views, or there are fewer than 2 m + w - 1 in all, all cycles of the
image are drawn as its first one is, and then the P - 1 other views stand between. In all cases a
view comes again after at least min(P, 2 m) places. Hence

- with P >= m no view stands twice in a showing;
- with P >= 2 m no view stands in two showings running;
- with m <= P < 2 m two showings running share the 2 m - P views that they must;
- with P < m a showing has all passing views, in turn.

Counter words of the draws, each under a Philox key of its own (``mixed_seed``), so that no stream
meets another or that of the view law; w is the width of a unit:

    walk halves  (position of the unit, 0, 0, 0)
    walk ring    (position of the unit, 0, 0, 0)
    walk units   (position of the unit, 0, cycle, 0)
    walk order   (hash low, hash high, cycle, unit ceil(w / 4) + place // 4), output word place % 4
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from labelstore.errors import UsageError
from labelstore.views.philox import mixed_seed, permutation, philox4x32

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    BoolArray = npt.NDArray[np.bool_]
    Int64Array = npt.NDArray[np.int64]

__all__ = ["Walk"]

_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_ONE = np.uint64(1)
_TOP = np.uint64(63)
_MARKS = (2, 4, 8)
"""How many marks a ring may have."""

_NEVER = np.uint64(1 << 32)
"""Above every 32-bit word: sorts behind all candidates."""


@dataclass(frozen=True)
class _Stretch:
    """Consecutive places of one unit's order, for r of the images."""

    rows: Int64Array
    """(r,): which images."""
    units: Int64Array
    """(r,): the unit of each."""
    draws: Int64Array
    """(r,): the cycle that its order is drawn for."""
    starts: Int64Array
    """(r,): the first place in the unit's order."""
    counts: Int64Array
    """(r,): how many places, at least 1."""
    columns: Int64Array
    """(r,): the first column of the showing that they take."""


@dataclass(frozen=True)
class Walk:
    """What the walks of all images have in common."""

    num_views: int
    """How many views each image has."""
    group_views: int
    """Views of a group; the last may be smaller."""
    views_per_image: int
    """m: how many views a showing has, 1..num_views."""
    seed: int
    """Any integer."""
    pace: int | None = None
    """How many passing views an image has that goes round with the hand, at least 1; num_views
    when None."""

    def __post_init__(self) -> None:
        """UsageError where a number is out of range."""
        if self.group_views < 1 or self.num_views < 1:
            raise UsageError(
                f"{self.num_views} views in groups of {self.group_views} were given, expected at "
                "least 1 each."
            )
        if not 1 <= self.views_per_image <= self.num_views:
            raise UsageError(
                f"views per image is {self.views_per_image}, expected 1 to {self.num_views}, the "
                "views that are stored of each image: choose a number in that range."
            )
        if self.pace is not None and self.pace < 1:
            raise UsageError(f"pace is {self.pace}, expected at least 1 view.")

    @property
    def width(self) -> int:
        """Views of a unit; the last may be smaller."""
        if self.num_views > self.group_views:
            return self.group_views
        return -(-self.num_views // 2)

    @property
    def num_units(self) -> int:
        """How many units there are."""
        return -(-self.num_views // self.width)

    def views(
        self,
        hashes: npt.NDArray[np.uint64],
        showings: npt.ArrayLike,
        passes: BoolArray | None,
    ) -> Int64Array:
        """The views of a showing of each image.

        Args:
            hashes: (n,) uint64, ``philox.hash_keys`` of the images' keys.
            showings: how often each image was shown before, 0..2**32-1: a number or (n,).
            passes: (n, num_views) bool, at least one in every row; None where all pass.

        Returns:
            (n, views_per_image) int64 view numbers.

        Raises:
            UsageError: a showing is out of range.
        """
        out = np.empty((len(hashes), self.views_per_image), dtype=np.int64)
        for part in self._stretches_of(_showings(showings, len(hashes)), passes):
            order = self._order(hashes[part.rows], part, passes)
            columns = np.arange(self.views_per_image) - part.columns[:, None]
            is_shown = (columns >= 0) & (columns < part.counts[:, None])
            row, column = np.nonzero(is_shown)
            places = order[row, part.starts[row] + columns[row, column]]
            out[part.rows[row], column] = part.units[row] * self.width + places
        return out

    def groups(self, showings: npt.ArrayLike, passes: BoolArray | None, count: int) -> Int64Array:
        """How many of the views of a showing of each image lie in which group.

        Args:
            showings, passes: as for ``views``.
            count: n, how many images.

        Returns:
            (num_groups,) int64, the sum over the images.

        Raises:
            UsageError: a showing is out of range.
        """
        out = np.zeros(-(-self.num_views // self.group_views), dtype=np.int64)
        for part in self._stretches_of(_showings(showings, count), passes):
            # A unit is a group, or lies in the only one.
            np.add.at(out, part.units * self.width // self.group_views, part.counts)
        return out

    def _counts(self, count: int, passes: BoolArray | None) -> Int64Array:
        """(n, num_units) int64: the passing views of every unit."""
        if passes is None:
            sizes = np.full(self.num_units, self.width, dtype=np.int64)
            sizes[-1] -= self.num_units * self.width - self.num_views
            return np.broadcast_to(sizes, (count, self.num_units))
        starts = np.arange(0, self.num_views, self.width)
        return np.add.reduceat(passes.view(np.uint8), starts, axis=1, dtype=np.int64)

    @cached_property
    def _second(self) -> BoolArray:
        """(num_units,) bool: the units of the second half."""
        order = permutation(self.num_units, mixed_seed("walk halves", self.seed), (0, 0))
        second = np.zeros(self.num_units, dtype=bool)
        second[order[self.num_units // 2 :]] = True
        return second

    def _unit_orders(self, cycles: Int64Array) -> Int64Array:
        """(c, num_units) int64: the units in the order of each cycle."""
        key = mixed_seed("walk units", self.seed)
        counter = (np.arange(self.num_units), 0, cycles[:, None], 0)
        high, low, _, _ = philox4x32(counter, key)
        words = (high.astype(np.uint64) << _SHIFT) | low
        halves = self._second.astype(np.uint64) << _TOP
        return np.argsort((words >> _ONE) | halves, axis=1, kind="stable").astype(np.int64)

    @cached_property
    def _ring(self) -> Int64Array:
        """(num_units,) int64: the units in the order of the ring."""
        return permutation(self.num_units, mixed_seed("walk ring", self.seed), (0, 0))

    def _marks(self, counts: Int64Array) -> Int64Array:
        """(n,) int64: at how many marks of the ring a cycle of each image may begin."""
        least = 2 * self.views_per_image + self.width - 1
        out = np.ones(len(counts), dtype=np.int64)
        on_ring = counts[:, self._ring]
        for marks in _MARKS:
            if marks <= self.num_units:
                places = np.arange(marks) * self.num_units // marks
                between = np.add.reduceat(on_ring, places, axis=1)
                out[between.min(axis=1) >= least] = marks
        return out

    def _ring_orders(self, cycles: Int64Array, total: Int64Array, marks: Int64Array) -> Int64Array:
        """(n, num_units) int64: the units in the order of a cycle of each image."""
        pace = self.num_views if self.pace is None else self.pace
        # The middle of the cycle is at (c + 1/2) P views, of which the hand has pace a round. In
        # halves of a view, less half a round:
        middle = ((2 * cycles + 1) * total - pace) % (2 * pace)
        mark = (middle * marks + pace) // (2 * pace) % marks
        first = mark * self.num_units // marks
        places = (first[:, None] + np.arange(self.num_units)) % self.num_units
        return np.asarray(self._ring[places], dtype=np.int64)

    def _stretches_of(self, showings: Int64Array, passes: BoolArray | None) -> Iterator[_Stretch]:
        """The stretches that the showings take; where all views pass, images at the same showing
        have theirs in common."""
        if passes is not None:
            yield from self._stretches(showings, self._counts(len(showings), passes), ring=True)
            return
        numbers, which = np.unique(showings, return_inverse=True)
        for part in self._stretches(numbers, self._counts(len(numbers), None), ring=False):
            place = np.full(len(numbers), -1)
            place[part.rows] = np.arange(len(part.rows))
            rows = np.flatnonzero(place[which] >= 0)
            of = place[which[rows]]
            yield _Stretch(
                rows,
                part.units[of],
                part.draws[of],
                part.starts[of],
                part.counts[of],
                part.columns[of],
            )

    def _stretches(
        self, showings: Int64Array, counts: Int64Array, *, ring: bool
    ) -> Iterator[_Stretch]:
        """The stretches of units that the showings take, until each has all its columns."""
        rows, columns = np.arange(len(showings)), np.zeros(len(showings), dtype=np.int64)
        total = counts.sum(axis=1)
        if ring:
            marks = self._marks(counts)
            redrawn = total >= 2 * self.views_per_image + self.width - 1
        else:
            second = counts[:, self._second].sum(axis=1)
            redrawn = np.minimum(second, total - second) >= 2 * self.views_per_image - 1
        cycles, places = np.divmod(showings * self.views_per_image, total)
        draws = np.zeros(len(showings), dtype=np.int64)
        orders = np.empty(counts.shape, dtype=np.int64)
        # Where each unit ends, counted on from row to row, so that one search finds all places.
        ends = np.empty(counts.shape, dtype=np.int64)
        base = rows * (self.num_views + 1)
        entered = rows
        while rows.size:
            if entered.size:
                draws[entered] = np.where(redrawn[entered], cycles[entered], 0)
                if ring:
                    orders[entered] = self._ring_orders(
                        cycles[entered], total[entered], marks[entered]
                    )
                else:
                    drawn, which = np.unique(draws[entered], return_inverse=True)
                    orders[entered] = self._unit_orders(drawn)[which]
                sizes = np.take_along_axis(counts[entered], orders[entered], axis=1)
                ends[entered] = base[entered, None] + np.cumsum(sizes, axis=1)
            turns = np.searchsorted(ends.reshape(-1), base[rows] + places[rows], side="right")
            units, stops = orders.reshape(-1)[turns], ends.reshape(-1)[turns] - base[rows]
            lengths = np.minimum(stops - places[rows], self.views_per_image - columns[rows])
            starts = places[rows] - stops + counts[rows, units]
            yield _Stretch(rows, units, draws[rows], starts, lengths, columns[rows])
            places[rows] += lengths
            columns[rows] += lengths
            rows = rows[columns[rows] < self.views_per_image]
            entered = rows[places[rows] == total[rows]]
            cycles[entered] += 1
            places[entered] = 0

    def _order(
        self, hashes: npt.NDArray[np.uint64], part: _Stretch, passes: BoolArray | None
    ) -> Int64Array:
        """(r, width) int64: the places of each image's unit, passing ones first, as drawn."""
        quads = -(-self.width // 4)
        quad = part.units[:, None] * quads + np.arange(quads)
        low, high = (hashes & _LOW)[:, None], (hashes >> _SHIFT)[:, None]
        key = mixed_seed("walk order", self.seed)
        words = np.stack(philox4x32((low, high, part.draws[:, None], quad), key), axis=-1)
        words = words.reshape(len(hashes), 4 * quads)[:, : self.width].astype(np.uint64)
        views = part.units[:, None] * self.width + np.arange(self.width)
        there = views < self.num_views
        if passes is not None:
            inside = np.minimum(views, self.num_views - 1)
            there &= passes[part.rows[:, None], inside]
        return np.argsort(np.where(there, words, _NEVER), axis=1, kind="stable").astype(np.int64)


def _showings(showings: npt.ArrayLike, count: int) -> Int64Array:
    """(n,) int64."""
    numbers = np.asarray(showings)
    if numbers.ndim and numbers.shape != (count,):
        raise UsageError(
            f"showings have shape {numbers.shape}, expected one number or ({count},): give one for "
            "each image."
        )
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < 2**32:
        raise UsageError(
            f"showings reach from {numbers.min()} to {numbers.max()}, expected 0 to 2**32-1."
        )
    return np.broadcast_to(numbers, count).astype(np.int64)
