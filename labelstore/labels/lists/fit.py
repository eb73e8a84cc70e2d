"""The lists of likely classes that bring images' labels nearest to their teacher.

No class of a list may get more than ``MOST_UNSEEN`` of the least stored probability. Of a flat
teacher (a high temperature) that is wrong: its classes outside are hardly less likely than the
least stored one. More stored classes, the least of which is smaller, then make a worse label. So
``fit`` weighs, image by image, how many of them are kept, and whether an even spread is better.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from labelstore.labels.prior import (
    MOST_UNSEEN,
    ImagePrior,
    decode_probs,
    encode_probs,
    list_shares,
    raised,
    spread,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Float64Array = npt.NDArray[np.float64]
    Int32Array = npt.NDArray[np.int32]
    BoolArray = npt.NDArray[np.bool_]

__all__ = ["TOGETHER", "FittedLists", "fit"]

POWERS = np.arange(20, 131, 5)
"""Powers that are tried, in hundredths."""

WEIGHED_VIEWS = 64
"""Views of an image by which ``fit`` weighs how many classes are kept: more say no more, and it
would take longer than the labels."""

GAIN = 1e-5
"""Nats by which fewer classes, or an even spread, must be better to be chosen."""

TOGETHER = 64
"""Images to fit in one call: enough that NumPy's calls cost little, few enough that what they work
on stays in the cache."""


class FittedLists(NamedTuple):
    """The priors of images, as they are stored."""

    classes: Int32Array
    """(N, m) int32 class ids, -1 for an empty place: all are where an even spread is better."""
    codes: npt.NDArray[np.uint8]
    """(N, m) uint8 codes of their probabilities."""
    powers: npt.NDArray[np.uint8]
    """(N,) uint8, in hundredths."""
    kept: Int32Array
    """(N,) int32, how many classes of each view's label are to be stored, 1 to k: the largest."""


def fit(
    means: Float64Array,
    indices: npt.NDArray[Any],
    probs: npt.NDArray[Any],
    size: int,
    rounded: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] | None = None,
    fewest: int = 1,
) -> FittedLists:
    """The priors of images with which their labels come nearest to the teacher's.

    Nearest in mean KL divergence. The power is fitted to all views (but for the limit that recovery
    sets to each class, which is left out). How many classes are kept, and whether the list is, is
    weighed on ``WEIGHED_VIEWS`` of them, with the limit, by what is known of the classes outside:
    their mean over the views that do not store them, and that none exceeds the least stored one.

    What comes of an image is the same to the bit in whatever company. ``TOGETHER`` of them take a
    fraction of the time of each alone, most of it without the interpreter's lock; they take memory
    for N x 64 x m numbers at once.

    Args:
        means: (N, C) the means of each image's V views' distributions.
        indices: (N, V, k) the stored class ids; probs: (N, V, k) their exact probabilities.
        size: m, how many classes to keep, at most C.
        rounded: gives for probabilities (..., k) those that will be read; they are exact when None.
        fewest: how many classes are kept at the least, where a label has as many.
    """
    # Of equal means, the smaller class id comes first.
    order = np.argsort(-means, axis=-1, kind="stable")[:, :size]
    codes = encode_probs(np.take_along_axis(means, order, axis=-1))
    classes = np.where(codes > 0, order, -1).astype(np.int32)
    most = np.maximum((probs > 0).sum(axis=-1).max(axis=-1, initial=0), 1)
    powers, kept = np.full(len(means), 100, dtype=np.uint8), np.empty(len(means), dtype=np.int32)
    # Images go together whose sums have as many terms: NumPy adds in an order by their number.
    kinds, kind_of = np.unique(
        np.stack([most, (classes >= 0).sum(axis=-1)]), axis=1, return_inverse=True
    )
    for kind, (stored, listed) in enumerate(kinds.T.tolist()):
        rows = np.flatnonzero(kind_of.reshape(-1) == kind)
        power = np.ones(len(rows), dtype=np.float32)
        prior = ImagePrior(classes[rows], decode_probs(codes[rows]), power)
        exact, ids = probs[rows].astype(np.float64), indices[rows].astype(np.int64)
        images = _Images(means[rows], ids, exact, prior, listed)
        chosen, kept[rows], evenly = images.chosen(rounded, stored, min(fewest, stored))
        powers[rows] = np.where(evenly, 100, chosen)
        classes[rows[evenly]], codes[rows[evenly]] = -1, 0
    return FittedLists(classes, codes, powers, kept)


def _most_of_least(costs: dict[int, Float64Array]) -> npt.NDArray[np.int64]:
    """(N,) of numbers of classes, rising, that cost hardly more than the cheapest, the largest."""
    table = np.stack(list(costs.values()))
    cheap = table <= table.min(axis=0) + GAIN
    return np.asarray(max(costs) - cheap[::-1].argmax(axis=0))


def _of_number(table: dict[int, Any], numbers: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """(N,) of each image what the table has for its number of classes."""
    return np.stack(list(table.values()))[numbers - min(table), np.arange(len(numbers))]


def _sums(table: Float64Array, by_place: npt.NDArray[np.int64]) -> Float64Array:
    """(N, V) sums of a table's entries, by their numbers (k, N, V) in it.

    Of up to seven they are those of ``sum(axis=-1)`` to the bit, which adds more in another order,
    and takes four times as long for few.
    """
    if len(by_place) > 7:
        return np.asarray(table.take(np.moveaxis(by_place, 0, -1)).sum(axis=-1))
    sums = table.take(by_place[0])
    for places in by_place[1:]:
        sums += table.take(places)
    return np.asarray(sums)


@dataclass(frozen=True)
class _Images:
    """N images with as many listed classes, and what is known of the classes that their labels do
    not store."""

    means: Float64Array
    """(N, C)."""
    indices: npt.NDArray[np.int64]
    """(N, V, k)."""
    probs: Float64Array
    """(N, V, k)."""
    prior: ImagePrior
    """(N, m)."""
    listed: int
    """How many places of each list are filled: the first."""

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> _Images:
        """Some of the images."""
        prior = self.prior[rows]
        return _Images(self.means[rows], self.indices[rows], self.probs[rows], prior, self.listed)

    @property
    def num_views(self) -> int:
        """V."""
        return int(self.indices.shape[1])

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.means.shape[1])

    def chosen(
        self,
        rounded: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] | None,
        most: int,
        fewest: int,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], BoolArray]:
        """(N,) powers in hundredths, how many classes are kept, whether an even spread is better.

        Args:
            rounded: as for ``fit``. most, fewest: classes that may be kept.
        """
        weighed = _Weighed(self, rounded)
        powers = self.powers(most)
        cost = weighed.with_list(most, powers)
        fewer = {max(most - 1, fewest), fewest} - {most}
        # Where fewer are better, it shows in one less or in the fewest: mostly nothing else is
        # weighed.
        known = [weighed.evenly(count) for count in (most, *fewer)]
        known += [weighed.with_list(count, powers) for count in fewer]
        kept, evenly = np.full(len(powers), most), np.zeros(len(powers), dtype=np.bool_)
        rows = np.flatnonzero(np.min(known, axis=0) < cost - GAIN)
        if not rows.size:
            return powers, kept, evenly
        some = self[rows]
        weighed = _Weighed(some, rounded)
        of_number = {count: some.powers(count) for count in range(fewest, most)}
        of_number[most] = powers[rows]
        costs = {count: weighed.with_list(count, power) for count, power in of_number.items()}
        evens = {count: weighed.evenly(count) for count in of_number}
        best, best_even = _most_of_least(costs), _most_of_least(evens)
        evenly[rows] = _of_number(evens, best_even) < _of_number(costs, best) - GAIN
        kept[rows] = np.where(evenly[rows], best_even, best)
        powers[rows] = _of_number(of_number, best)
        return powers, kept, evenly

    @functools.cached_property
    def places(self) -> npt.NDArray[np.int64]:
        """(N, V, k) each stored class's place in its image's list, -1 for those outside."""
        places = np.full(self.means.shape, -1)
        ids = self.prior.classes[:, : self.listed]
        np.put_along_axis(places, ids, np.arange(self.listed)[None], axis=1)
        flat = self.indices.reshape(len(places), -1)
        return np.take_along_axis(places, flat, axis=1).reshape(self.indices.shape)

    def tail(self, kept: int) -> Float64Array:
        """(N, C) mass that each class has in the tails of all views; rounding makes none
        negative."""
        listed = self._counted(self.indices[..., :kept], self.probs[..., :kept])
        return np.maximum(self.num_views * self.means - listed, 0.0)

    def unseen(self) -> Float64Array:
        """(N, C) mean probability over the views that do not store the class."""
        views = self.num_views - self._counted(self.indices, (self.probs > 0).astype(np.float64))
        return self.tail(self.indices.shape[-1]) / np.maximum(views, 1)

    def _counted(self, indices: npt.NDArray[np.int64], weights: Float64Array) -> Float64Array:
        """(N, C) sums of weights (N, V, n) by class, in the order of views."""
        first = np.arange(len(indices))[:, None, None] * self.num_classes
        places = (first + indices).reshape(-1)
        sums = np.bincount(places, weights.reshape(-1), minlength=self.means.size)
        return np.asarray(sums, dtype=np.float64).reshape(self.means.shape)

    def powers(self, kept: int) -> npt.NDArray[np.int64]:
        """(N,) the power in hundredths for labels of so many classes."""
        tail, probs = self.tail(kept), self.probs[..., :kept]
        residual = np.maximum(1.0 - probs.sum(axis=-1), 0.0)
        listed_tail = np.take_along_axis(tail, self.prior.classes[:, : self.listed], axis=1)
        other_tail = tail.sum(axis=-1) - listed_tail.sum(axis=-1)
        others = self.num_classes - self.listed
        shares = list_shares(self.prior, self.num_classes)
        # What each stored class would have got: by its place, or as any outside, or nothing.
        width = self.prior.classes.shape[1]
        places = self.places[..., :kept]
        places = np.where(probs > 0, np.where(places >= 0, places, width), width + 1)
        places += np.arange(len(places))[:, None, None] * (width + 2)
        by_place = np.ascontiguousarray(np.moveaxis(places, -1, 0))
        costs = np.empty((len(POWERS), len(places)))
        # Raising to many powers at once gives other last bits.
        for row, power in zip(costs, POWERS / 100.0, strict=True):
            weights, outside = raised(*shares, power)
            table = np.stack([outside, np.zeros(len(outside))], axis=-1)
            taken = _sums(np.concatenate([weights, table], axis=-1), by_place)
            total = weights.sum(axis=-1) + outside * others
            # Cross-entropy of the tails with the spread, less what does not depend on the power.
            gain = (listed_tail * np.log(weights[:, : self.listed])).sum(axis=-1)
            gain += other_tail * np.log(outside)
            total = np.maximum(total[:, None] - taken, 1e-300)
            row[:] = (residual * np.log(total)).sum(axis=-1) - gain
        return np.asarray(POWERS[costs.argmin(axis=0)])


class _Weighed:
    """Cross-entropy of some views' distributions, as far as they are known, with their labels.

    Args:
        images: the images. rounded: as for ``fit``.
    """

    def __init__(
        self,
        images: _Images,
        rounded: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] | None,
    ) -> None:
        views = images.num_views
        count = min(views, WEIGHED_VIEWS)
        rows = np.arange(count) * views // count
        self._probs = images.probs[:, rows]
        self._values = self._probs if rounded is None else rounded(self._probs).astype(np.float64)
        self._num_classes = images.num_classes
        self._places = np.where(self._probs > 0, images.places[:, rows], -1)
        self._width = images.prior.classes.shape[1]
        self._others = images.num_classes - images.listed
        self._shares = list_shares(images.prior, images.num_classes)
        # The tail as it is known: like the unseen mean, no class above the least stored one.
        unseen, classes = images.unseen(), images.prior.classes
        listed = np.take_along_axis(unseen, np.maximum(classes, 0), axis=1)
        listed = np.where(classes >= 0, listed, 0.0)
        flat = images.indices[:, rows].reshape(len(unseen), -1)
        strangers = np.take_along_axis(unseen, flat, axis=1).reshape(self._probs.shape)
        strangers = np.where((self._probs > 0) & (self._places < 0), strangers, 0.0)
        rest = (unseen.sum(axis=-1) - listed.sum(axis=-1))[:, None] - strangers.sum(axis=-1)
        rest = np.maximum(rest, 0.0)[..., None]
        least = np.where(self._probs > 0, self._probs, np.inf).min(axis=-1, keepdims=True)
        residual = np.maximum(1.0 - self._probs.sum(axis=-1, keepdims=True), 0.0)
        weights = np.where(self._taken(self._probs > 0), 0.0, listed[:, None])
        self._listed_tail, scale = spread(weights, rest, residual, least)
        self._other_tail = scale * rest[..., 0]

    def with_list(self, kept: int, powers: npt.NDArray[np.int64]) -> Float64Array:
        """(N,) nats a label, where so many classes are kept and the rest is spread like the list.

        Args:
            powers: (N,) in hundredths.
        """
        stored = self._stored(kept)
        listed, outside = np.empty((len(powers), self._width)), np.empty(len(powers))
        for power in np.unique(powers):
            rows = np.flatnonzero(powers == power)
            filled, probs, rest = self._shares
            listed[rows], outside[rows] = raised(
                filled[rows], probs[rows], rest[rows], power / 100.0
            )
        weights = np.where(self._taken(stored), 0.0, listed[:, None])
        strangers = (stored & (self._places < 0)).sum(axis=-1, keepdims=True)
        others = np.maximum(self._others - strangers, 0)
        values = np.where(stored, self._values, 0.0)
        residual = np.maximum(1.0 - values.sum(axis=-1, keepdims=True), 0.0)
        least = np.where(stored, values, np.inf).min(axis=-1, keepdims=True)
        limit = np.where(stored.any(axis=-1, keepdims=True), MOST_UNSEEN * least, 1.0)
        shares, scale = spread(weights, outside[:, None, None] * others, residual, limit)
        return self._cost(stored, shares, (scale * outside[:, None])[..., None])

    def evenly(self, kept: int) -> Float64Array:
        """(N,) the same where the rest is spread evenly."""
        stored = self._stored(kept)
        others = self._num_classes - stored.sum(axis=-1, keepdims=True)
        residual = 1.0 - np.where(stored, self._values, 0.0).sum(axis=-1, keepdims=True)
        base = np.maximum(residual, 0.0) / np.maximum(others, 1)
        return self._cost(stored, base, base)

    def _stored(self, kept: int) -> BoolArray:
        return np.asarray((self._values > 0) & (np.arange(self._values.shape[-1]) < kept))

    def _taken(self, stored: BoolArray) -> BoolArray:
        """(N, n, m) whether a label stores the class of the list."""
        is_stored = np.zeros((*stored.shape[:-1], self._width), dtype=bool)
        images, rows, ranks = np.nonzero(stored & (self._places >= 0))
        is_stored[images, rows, self._places[images, rows, ranks]] = True
        return is_stored

    def _cost(self, stored: BoolArray, shares: Float64Array, base: Float64Array) -> Float64Array:
        """(N,); args: (N, n, k) what is stored; (N, n, m) listed, (N, n, 1) other classes'
        probabilities, or (N, n, 1) for both."""
        spread_to = shares
        if shares.shape[-1] > 1:
            spread_to = np.take_along_axis(shares, np.maximum(self._places, 0), axis=-1)
        recovered = np.where(stored, self._values, np.where(self._places >= 0, spread_to, base))
        # A class that gets nothing costs much, not everything, as in ``labels.distance``.
        parts = (
            self._probs * np.log(np.maximum(recovered, 1e-12)),
            self._listed_tail * np.log(np.maximum(shares, 1e-12)),
            self._other_tail * np.log(np.maximum(base[..., 0], 1e-12)),
        )
        first, second, third = (part.reshape(len(stored), -1).sum(axis=-1) for part in parts)
        return np.asarray(-(first + second + third) / stored.shape[1])
