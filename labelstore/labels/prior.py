"""The image prior: what the views of one image say on average, stored once an image.

The m largest classes of the mean of the views' full distributions. A view's residual mass (what its
stored classes leave of 1) is spread like it, raised to a power that is fitted for each image:
closer to the teacher than an even spread, since the views of a photo say nearly the same thing.

No class of the list may get more than ``MOST_UNSEEN`` of the least stored probability. Of a flat
teacher (a high temperature) that is wrong: its classes outside are hardly less likely than the
least stored one. More stored classes, the least of which is smaller, then make a worse label. So
``fit`` weighs, image by image, how many of them are kept, and whether an even spread is better.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy.typing as npt

    Float32Array = npt.NDArray[np.float32]
    Float64Array = npt.NDArray[np.float64]
    Int32Array = npt.NDArray[np.int32]
    BoolArray = npt.NDArray[np.bool_]

__all__ = [
    "MOST_UNSEEN",
    "FittedList",
    "ImagePrior",
    "decode_probs",
    "encode_probs",
    "fit",
    "spread",
    "tail_weights",
]

POWERS = np.arange(20, 131, 5)
"""Powers that are tried, in hundredths."""

_EXPONENTS = POWERS / 100.0

_FOURTH_POWERS = ((np.arange(256) / 255.0) ** 4).astype(np.float32)

MOST_UNSEEN = 0.75
"""What a class that is not stored may get in the image tail, as a share of the least stored
probability, at most: it is known to be less likely, but not by how much."""

WEIGHED_VIEWS = 64
"""Views of an image by which ``fit`` weighs how many classes are kept: more say no more, and it
would take longer than the labels."""

GAIN = 1e-5
"""Nats by which fewer classes, or an even spread, must be better to be chosen."""

LEAST = 1e-6
"""Mass that the classes outside the list share at the least: none of them is ever impossible."""


@dataclass(frozen=True)
class ImagePrior:
    """Lists of likely classes, one for each label of a batch."""

    classes: Int32Array
    """(..., m) int32 class ids, likeliest first; -1 for an empty place, after all others."""
    probs: Float32Array
    """(..., m) float32 mean probabilities, falling; 0 for an empty place."""
    power: Float32Array
    """(...) float32: what the probabilities are raised to before they spread a residual."""

    def __getitem__(self, rows: Any) -> ImagePrior:
        """Rows by any NumPy index into the leading axes."""
        return ImagePrior(self.classes[rows], self.probs[rows], self.power[rows])


def encode_probs(probs: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Mean probabilities (...) in [0, 1] as codes 0..255 of fourth-power steps, 0 for 0 alone."""
    exact = np.asarray(probs, dtype=np.float64)
    codes = np.rint(np.clip(exact, 0, 1) ** 0.25 * 255)
    return np.where(exact > 0, np.maximum(codes, 1), 0).astype(np.uint8)


def decode_probs(codes: npt.NDArray[np.uint8]) -> Float32Array:
    """(...) float32 ``(code / 255) ** 4``."""
    return _FOURTH_POWERS.take(codes)


def tail_weights(
    prior: ImagePrior, num_classes: int, power: npt.ArrayLike | None = None
) -> tuple[Float64Array, Float64Array]:
    """Unnormalised weights by which a residual is spread.

    Returns:
        (..., m) of the listed classes (0 for an empty place) and (...) of each class outside.
    """
    if power is not None:
        return _raised(*_shares(prior, num_classes), power)
    shape, width = prior.power.shape, prior.classes.shape[-1]
    classes, probs = prior.classes.reshape(-1, width), prior.probs.reshape(-1, width)
    powers = prior.power.reshape(-1)
    # The views of an image lie side by side and have one list: raising is what takes long.
    first = np.ones(len(powers), dtype=bool)
    first[1:] = powers[1:] != powers[:-1]
    for values in (classes, probs):
        first[1:] |= (values[1:] != values[:-1]).any(axis=-1)
    lists = ImagePrior(classes[first], probs[first], powers[first])
    weights, outside = _raised(*_shares(lists, num_classes), lists.power)
    rows = np.cumsum(first) - 1
    return weights[rows].reshape(*shape, width), outside[rows].reshape(shape)


def _shares(prior: ImagePrior, num_classes: int) -> tuple[BoolArray, Float64Array, Float64Array]:
    """(..., m) which places are filled, (..., m) their probabilities, (...) that of each class
    outside."""
    listed = prior.classes >= 0
    probs = np.where(listed, prior.probs, 0.0).astype(np.float64)
    outside = num_classes - listed.sum(axis=-1)
    return listed, probs, np.maximum(1.0 - probs.sum(axis=-1), LEAST) / np.maximum(outside, 1)


def _raised(
    listed: BoolArray, probs: Float64Array, rest: Float64Array, power: npt.ArrayLike
) -> tuple[Float64Array, Float64Array]:
    exponent = np.asarray(power, dtype=np.float64)
    return np.where(listed, probs ** exponent[..., None], 0.0), rest**exponent


def spread(
    weights: Float64Array, outside: Float64Array, mass: Float64Array, limit: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Spread a mass in proportion to weights, none of the listed above a limit where possible.

    What the image says on average must not overrule what was seen in this view.

    Args:
        weights: (..., m) of the listed classes; outside: (..., 1) of all others together.
        mass: (..., 1) to be spread; limit: (..., 1).

    Returns:
        (..., m) the listed classes' shares, and (...) the factor of the weights outside.
    """
    width, shape = weights.shape[-1], np.broadcast_shapes(weights.shape[:-1], mass.shape[:-1])
    rows = [
        np.broadcast_to(part, (*shape, part.shape[-1])).reshape(-1, part.shape[-1])
        for part in (weights, outside, mass, limit)
    ]
    shares, scale, over = _evenly(rows)
    # Few labels need more than a round: the others are done.
    left = np.flatnonzero(over.any(axis=-1))
    capped = over[left]
    rows = [part[left] for part in rows]
    for _ in range(width):
        if not left.size:
            break
        again, factor, over = _evenly(rows, capped)
        shares[left], scale[left] = again, factor
        some = over.any(axis=-1)
        left, rows = left[some], [part[some] for part in rows]
        capped = capped[some] | over[some]
    return shares.reshape(*shape, width), scale.reshape(shape)


def _evenly(
    rows: list[Float64Array], capped: BoolArray | None = None
) -> tuple[Float64Array, Float64Array, BoolArray]:
    """A round of ``spread``: (n, m) shares with the capped ones (n, m) at the limit, (n,) the
    factor of all weights, and (n, m) which classes are to be capped, too. ``rows`` are ``spread``'s
    arguments, (n, m) or (n, 1)."""
    weights, outside, mass, limit = rows
    free, left = weights, mass
    if capped is not None:
        free = np.where(capped, 0.0, weights)
        left = np.maximum(mass - capped.sum(axis=-1, keepdims=True) * limit, 0.0)
    total = free.sum(axis=-1, keepdims=True) + outside
    some = total > 0
    scale = np.where(some, left / np.where(some, total, 1.0), 0.0)
    shares = scale * weights
    over = shares > limit
    if capped is not None:
        over &= ~capped
        shares = np.where(capped, limit, shares)
    # Capping the last class that is free would leave mass over.
    some = np.flatnonzero(over.any(axis=-1))
    kept = np.where(over[some], 0.0, free[some])
    over[some] &= (kept.sum(axis=-1, keepdims=True) + outside[some]) > 0
    return shares, scale[:, 0], over


class FittedList(NamedTuple):
    """The prior of one image, as it is stored."""

    classes: Int32Array
    """(m,) int32 class ids, -1 for an empty place: all are where an even spread is better."""
    codes: npt.NDArray[np.uint8]
    """(m,) uint8 codes of their probabilities."""
    power: int
    """In hundredths."""
    kept: int
    """How many classes of each view's label are to be stored, 1 to k: the largest ones."""


def fit(
    mean: Float64Array,
    indices: npt.NDArray[Any],
    probs: npt.NDArray[Any],
    size: int,
    rounded: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] | None = None,
    fewest: int = 1,
) -> FittedList:
    """The prior of one image with which its labels come nearest to the teacher's.

    Nearest in mean KL divergence. The power is fitted to all views (but for the limit that recovery
    sets to each class, which is left out). How many classes are kept, and whether the list is, is
    weighed on ``WEIGHED_VIEWS`` of them, with the limit, by what is known of the classes outside:
    their mean over the views that do not store them, and that none exceeds the least stored one.

    Args:
        mean: (C,) the mean of its V views' distributions.
        indices: (V, k) the stored class ids; probs: (V, k) their exact probabilities.
        size: m, how many classes to keep, at most C.
        rounded: gives for probabilities (n, k) those that will be read; they are exact when None.
        fewest: how many classes are kept at the least, where a label has as many.
    """
    # Of equal means, the smaller class id comes first.
    order = np.argsort(-mean, kind="stable")[:size]
    codes = encode_probs(mean[order])
    classes = np.where(codes > 0, order, -1).astype(np.int32)
    prior = ImagePrior(classes, decode_probs(codes), np.ones((), dtype=np.float32))
    outside = _Outside(mean, indices, probs, prior)
    most = max(int((probs > 0).sum(axis=-1).max(initial=0)), 1)
    weighed = _Weighed(outside, rounded)
    powers = {most: outside.power(most)}
    fewest = min(fewest, most)
    fewer = sorted({max(most - 1, fewest), fewest} - {most})
    costs = weighed.with_list(dict.fromkeys((most, *fewer), powers[most]))
    evens = weighed.evenly((most, *fewer))
    known = [*evens.values(), *costs.values()]
    costs = {most: costs[most]}
    # Where fewer are better, it shows in one less or in the fewest: mostly nothing else is weighed.
    if min(known) < costs[most] - GAIN:
        others = {kept: outside.power(kept) for kept in range(fewest, most)}
        powers |= others
        costs |= weighed.with_list(others)
        evens |= weighed.evenly([kept for kept in others if kept not in evens])
    best, best_even = _most_of_least(costs), _most_of_least(evens)
    if evens[best_even] < costs[best] - GAIN:
        return FittedList(np.full_like(classes, -1), np.zeros_like(codes), 100, best_even)
    return FittedList(classes, codes, powers[best], best)


def _most_of_least(costs: dict[int, float]) -> int:
    """Of numbers of classes that cost hardly more than the cheapest, the largest."""
    return max(kept for kept, cost in costs.items() if cost <= min(costs.values()) + GAIN)


class _Outside:
    """What is known of the classes that an image's labels do not store."""

    def __init__(
        self,
        mean: Float64Array,
        indices: npt.NDArray[Any],
        probs: npt.NDArray[Any],
        prior: ImagePrior,
    ) -> None:
        self.indices, self.probs, self.prior = indices, probs.astype(np.float64), prior
        self.num_views, self.num_classes = len(indices), len(mean)
        self.listed = np.flatnonzero(prior.classes >= 0)
        self.ids = prior.classes[self.listed]
        self.place = np.full(self.num_classes, -1)
        """(C,) each class's place in the list, -1 for those outside."""
        self.place[self.ids] = self.listed
        self._mean = mean

    def tail(self, kept: int) -> Float64Array:
        """(C,) mass that each class has in the tails of all views; rounding makes none negative."""
        tail = self.num_views * self._mean
        held = self.indices[:, :kept].reshape(-1), self.probs[:, :kept].reshape(-1)
        tail -= np.bincount(*held, minlength=self.num_classes)
        return np.maximum(tail, 0.0)

    def unseen(self) -> Float64Array:
        """(C,) mean probability over the views that do not store the class."""
        stored = self.indices[self.probs > 0]
        views = self.num_views - np.bincount(stored, minlength=self.num_classes)
        return self.tail(self.indices.shape[1]) / np.maximum(views, 1)

    @functools.cached_property
    def _raised(self) -> tuple[Float64Array, Float64Array]:
        """(p, m) and (p,): the weights in the list, and outside, for each of ``POWERS``."""
        listed, probs, rest = _shares(self.prior, self.num_classes)
        # Raising to many powers at once gives other last bits.
        weights = [probs ** power[None] for power in _EXPONENTS]
        outside = np.array([rest ** np.asarray(power) for power in _EXPONENTS])
        return np.where(listed, weights, 0.0), outside

    @functools.cached_property
    def _weight_places(self) -> npt.NDArray[np.int64]:
        """(V, k) where the stored classes' weights stand: their places in the list, after these
        that of the classes outside, and then of none."""
        size = len(self.prior.classes)
        places = self.place[self.indices]
        return np.where(self.probs > 0, np.where(places >= 0, places, size), size + 1)

    def power(self, kept: int) -> int:
        """The power in hundredths for labels of so many classes."""
        tail, probs = self.tail(kept), self.probs[:, :kept]
        residual = np.maximum(1.0 - probs.sum(axis=-1), 0.0)
        listed_tail = tail[self.ids]
        others = self.num_classes - len(self.ids)
        # A row for each power that is tried.
        weights, outside = self._raised
        # After the list's, the weights of a class outside and of a place that holds none.
        every = np.concatenate([weights, outside[:, None], np.zeros_like(outside)[:, None]], axis=1)
        taken = np.take(every, self._weight_places[:, :kept], axis=1).sum(axis=-1)
        total = np.maximum((weights.sum(axis=-1) + outside * others)[:, None] - taken, 1e-300)
        # Cross-entropy of the tails with the spread, less what does not depend on the power.
        gain = (listed_tail * np.log(weights[:, self.listed])).sum(axis=-1)
        gain += (tail.sum() - listed_tail.sum()) * np.log(outside)
        costs = (residual * np.log(total)).sum(axis=-1) - gain
        return int(POWERS[int(np.argmin(costs))])


class _Weighed:
    """Cross-entropy of some views' distributions, as far as they are known, with their labels."""

    def __init__(
        self,
        outside: _Outside,
        rounded: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] | None,
    ) -> None:
        views = outside.num_views
        count = min(views, WEIGHED_VIEWS)
        rows = np.arange(count) * views // count
        self._probs = outside.probs[rows]
        self._values = self._probs if rounded is None else rounded(self._probs).astype(np.float64)
        indices = outside.indices[rows]
        self._prior, self._num_classes = outside.prior, outside.num_classes
        self._ranks = np.where(self._probs > 0, outside.place[indices], -1)
        self._is_listed = self._prior.classes >= 0
        self._others = self._num_classes - int(self._is_listed.sum())
        # The tail as it is known: like the unseen mean, no class above the least stored one.
        unseen = outside.unseen()
        listed = np.where(self._is_listed, unseen[np.maximum(self._prior.classes, 0)], 0.0)
        strangers = np.where((self._probs > 0) & (self._ranks < 0), unseen[indices], 0.0)
        rest = np.maximum(unseen.sum() - listed.sum() - strangers.sum(axis=-1), 0.0)[:, None]
        least = np.where(self._probs > 0, self._probs, np.inf).min(axis=-1, keepdims=True)
        residual = np.maximum(1.0 - self._probs.sum(axis=-1, keepdims=True), 0.0)
        weights = np.where(self._taken(self._probs > 0), 0.0, listed)
        self._listed_tail, scale = spread(weights, rest, residual, least)
        self._other_tail = scale * rest[:, 0]

    def with_list(self, powers: dict[int, int]) -> dict[int, float]:
        """Nats a label, where so many classes are kept and the rest is spread like the list raised
        to the power of each number of classes."""
        if not powers:
            return {}
        stored = self._stored(powers)
        by_power = {
            power: tail_weights(self._prior, self._num_classes, power / 100.0)
            for power in set(powers.values())
        }
        # (c, 1, m) and (c, 1, 1), for c numbers of classes.
        weights = np.stack([by_power[power][0] for power in powers.values()])[:, None]
        outside = np.array([by_power[power][1] for power in powers.values()])[:, None, None]
        weights = np.where(self._taken(stored), 0.0, weights)
        strangers = (stored & (self._ranks < 0)).sum(axis=-1, keepdims=True)
        others = np.maximum(self._others - strangers, 0)
        values = np.where(stored, self._values, 0.0)
        residual = np.maximum(1.0 - values.sum(axis=-1, keepdims=True), 0.0)
        least = np.where(stored, values, np.inf).min(axis=-1, keepdims=True)
        limit = np.where(stored.any(axis=-1, keepdims=True), MOST_UNSEEN * least, 1.0)
        shares, scale = spread(weights, outside * others, residual, limit)
        return self._costs(powers, stored, shares, scale[..., None] * outside)

    def evenly(self, numbers: Sequence[int]) -> dict[int, float]:
        """The same where so many classes are kept and the rest is spread evenly."""
        if not numbers:
            return {}
        stored = self._stored(numbers)
        others = self._num_classes - stored.sum(axis=-1, keepdims=True)
        residual = 1.0 - np.where(stored, self._values, 0.0).sum(axis=-1, keepdims=True)
        base = np.maximum(residual, 0.0) / np.maximum(others, 1)
        return self._costs(numbers, stored, None, base)

    def _stored(self, numbers: Iterable[int]) -> npt.NDArray[np.bool_]:
        """(c, n, k) what is stored where so many classes are kept, for c numbers of them."""
        kept = np.fromiter(numbers, dtype=np.int64)[:, None, None]
        return (self._values > 0) & (np.arange(self._values.shape[-1]) < kept)

    def _taken(self, stored: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """(..., n, m) whether a label stores the class of the list."""
        taken = np.zeros((*stored.shape[:-1], len(self._is_listed)), dtype=bool)
        *rows, places = np.nonzero(stored & (self._ranks >= 0))
        taken[(*rows, self._ranks[rows[-1], places])] = True
        return taken

    def _costs(
        self,
        numbers: Iterable[int],
        stored: npt.NDArray[np.bool_],
        shares: Float64Array | None,
        base: Float64Array,
    ) -> dict[int, float]:
        """By how many of c numbers of classes are kept.

        Args: (c, n, k) what is stored; (c, n, m) probabilities of listed classes, those of others
            when None; (c, n, 1) of others.
        """
        spread_to = base
        if shares is not None:
            spread_to = shares[:, np.arange(len(self._ranks))[:, None], np.maximum(self._ranks, 0)]
        held = np.where(stored, self._values, np.where(self._ranks >= 0, spread_to, base))
        # A class that gets nothing costs much, not everything, as in ``labels.distance``.
        of_stored = self._probs * np.log(np.maximum(held, 1e-12))
        listed = np.log(np.maximum(base if shares is None else shares, 1e-12))
        of_listed = self._listed_tail * listed
        of_others = self._other_tail * np.log(np.maximum(base[..., 0], 1e-12))
        costs = {}
        for number, parts in zip(
            numbers, zip(of_stored, of_listed, of_others, strict=True), strict=True
        ):
            total = parts[0].sum()
            total += parts[1].sum()
            total += parts[2].sum()
            costs[number] = float(-total / len(self._ranks))
        return costs
