"""Thresholds that fit a teacher: those at which FerKD's rule takes given shares of the views.

The paper's thresholds (0.15, 0.30, 0.95) are about its teachers. What carries over to another is
how many crops they take, which Table 1 of the paper tells (Shen, ICCV 2023) by its ranges of the
largest probability: 0.43 % of the crops are below 0.1, 1.32 % below 0.2, 2.61 % below 0.3, 99.67 %
below 0.95. Linearly between 0.1 and 0.2, 0.43 + (1.32 - 0.43) / 2 = 0.875 % are below 0.15: too
hard. 2.61 - 0.875 = 1.735 % are between 0.15 and 0.30: calibrated. 100 - 99.67 = 0.33 % are above
0.95: too easy. These are the defaults, to the tenth of a percent that such an interpolation bears.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from labelstore.errors import LabelError, NotFoundError, UsageError
from labelstore.labels.actions import ActionCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    Int64Array = npt.NDArray[np.int64]
    Planes = Callable[[], Iterator[npt.NDArray[np.float32]]]

__all__ = [
    "CALIBRATED",
    "EASIEST",
    "HARDEST",
    "DistinctValues",
    "FittedThresholds",
    "MemberConfidences",
    "Shares",
    "fit_members",
    "fit_thresholds",
    "fit_values",
]

HARDEST, CALIBRATED, EASIEST = 0.009, 0.017, 0.003
"""The paper's shares."""

_FINE_BITS = 16
"""The lower bits of a float32, which are looked at in few bins alone."""

_MOST_VALUES = 2**17
"""Different values that are counted one by one: those of a quantizer's codes are at most half."""

_ONE = 0x3F800000
"""The bits of 1, the largest probability."""


class _Teacher(Protocol):
    @property
    def path(self) -> object:
        """Where its store lies."""


class MemberConfidences(Protocol):
    """What thresholds are fitted to: a store or an ensemble that is open."""

    @property
    def members(self) -> Sequence[_Teacher]:
        """One for each teacher."""

    @property
    def num_classes(self) -> int:
        """How many classes every teacher knows."""

    @property
    def complete(self) -> bool:
        """Whether all labels are there."""

    def member_confidence(
        self, number: int
    ) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]]:
        """A teacher's largest probabilities, in parts: (n,) ground truth of images, -1 unknown, and
        (n, views) of theirs, NaN where there is no label."""


@dataclass(frozen=True)
class Shares:
    """Shares of the views that a rule is to take, 0..1; the paper's by default.

    Raises:
        UsageError: a share out of range, or a sum above 1.
    """

    hardest: float = HARDEST
    """Discarded as too hard: at most ``low``."""
    calibrated: float = CALIBRATED
    """Calibrated: in (low, middle]."""
    easiest: float = EASIEST
    """Discarded as too easy: above ``top``."""

    def __post_init__(self) -> None:
        shares = (self.hardest, self.calibrated, self.easiest)
        # The sum of decimal numbers that is 1 may be a few units above it.
        if not (all(0 <= share <= 1 for share in shares) and sum(shares) <= 1 + 1e-12):
            raise UsageError(
                f"the shares hardest, calibrated and easiest are {', '.join(map(str, shares))}, "
                "expected 0 to 1 each and at most 1 together: give smaller ones.",
                arguments=("hardest", "calibrated", "easiest"),
            )


@dataclass(frozen=True)
class FittedThresholds:
    """Thresholds, and what they take of the views that they were fitted to."""

    low: float
    middle: float
    top: float
    counts: ActionCounts

    def shares(self) -> dict[str, float]:
        """The share, 0..1, of each part of ``counts`` by its name."""
        return {name: count / self.counts.views for name, count in vars(self.counts).items()}


def fit_members(store: MemberConfidences, shares: Shares) -> list[FittedThresholds]:
    """Thresholds for each teacher of a store or an ensemble, from its own confidences.

    Raises:
        UsageError: it is no open store. NotFoundError: it has no label. StoreError: a label cannot
        be read.
    """
    if not hasattr(store, "member_confidence"):
        raise UsageError(
            f"thresholds are fitted to {store!r}, expected a store or an ensemble that is open: "
            "open it with labelstore.open."
        )

    def planes_of(number: int) -> Planes:
        return lambda: (plane for _, plane in store.member_confidence(number))

    return [
        fit_thresholds(planes_of(number), shares, str(member.path))
        for number, member in enumerate(store.members)
    ]


def fit_thresholds(planes: Planes, shares: Shares, source: str) -> FittedThresholds:
    """The thresholds at which the rule takes shares of the views, as nearly as from below.

    Each is a confidence that occurs, as the shortest decimal number that is its float32. Views of
    one confidence are treated alike, and so a share may not be there to be had: ``low`` is the
    largest one at which not more than ``hardest`` of all views are at or below it, ``middle`` the
    largest at which not more than ``calibrated`` are in (low, middle], ``top`` the smallest, not
    below ``middle``, at which not more than ``easiest`` are above it. Where there is none, nothing
    is taken: ``low`` is 0, or ``middle`` is ``low``. (A label of confidence 0 has no class, and
    every rule discards it.)

    Exact and deterministic, and a few megabytes whatever the number of views. Where there are few
    different values, as in a store of codes, each is counted, in one pass. Else they are counted by
    the bits of their float32, in three more: first by the upper ones and then, around the
    thresholds, by all.

    Args:
        planes: gives the same arrays whenever it is called: float32 in [0, 1], NaN for no view.
        shares: what to take.
        source: whose they are, for messages.

    Raises:
        NotFoundError: there is no view. LabelError: a value is no probability.
    """
    distinct = DistinctValues()
    for codes in _codes_of(planes, source):
        distinct.add(np.sort(codes).view(np.float32))
        if not distinct.few:
            return _fitted(_Values(planes, source), shares, source)
    return fit_values(distinct, shares, source)


def fit_values(values: DistinctValues, shares: Shares, source: str) -> FittedThresholds:
    """As ``fit_thresholds``, of values that were counted one by one.

    Raises:
        Those of ``fit_thresholds``. ValueError: there were too many different ones.
    """
    if not values.few:
        raise ValueError("too many different values were added to count each")
    for _ in _codes_of(lambda: iter([values.values]), source):
        pass
    return _fitted(values, shares, source)


def _fitted(values: _Ranked, shares: Shares, source: str) -> FittedThresholds:
    views = values.count
    if not views:
        raise NotFoundError(
            f"{source} has no label, and thresholds are fitted to confidences: label some "
            "images first."
        )
    hardest = _count_of(shares.hardest, views)
    not_easiest = views - _count_of(shares.easiest, views)
    values.refine(hardest + 1, not_easiest)

    codes, at_most = values.near(hardest + 1)
    chosen = np.flatnonzero(at_most <= hardest)
    low = int(codes[chosen[-1]]) if len(chosen) else 0
    too_hard = int(at_most[codes <= low].max(initial=0))

    uncertain = too_hard + _count_of(shares.calibrated, views)
    values.refine(uncertain + 1)
    codes, at_most = values.near(uncertain + 1)
    chosen = np.flatnonzero((at_most <= uncertain) & (codes > low))
    middle, decided = low, too_hard
    if len(chosen):
        middle, decided = int(codes[chosen[-1]]), int(at_most[chosen[-1]])

    codes, at_most = values.near(not_easiest)
    first = int(np.argmax(at_most >= not_easiest))
    top, left = max((int(codes[first]), int(at_most[first])), (middle, decided))
    return FittedThresholds(
        _shortest(low),
        _shortest(middle),
        _shortest(top),
        ActionCounts(too_hard, decided - too_hard, left - decided, views - left),
    )


class _Ranked(Protocol):
    """Probabilities by their rank."""

    @property
    def count(self) -> int:
        """How many there are."""

    def refine(self, *ranks: int) -> None:
        """Say which ones are asked for next."""

    def near(self, rank: int) -> tuple[Int64Array, Int64Array]:
        """Rising codes of values, that of the ``rank`` smallest one and, where there is any, the
        one before among them; and for each how many values are at most that. A code is the bits of
        a float32."""


class DistinctValues:
    """Probabilities of which each value is counted, while few different ones occur."""

    def __init__(self) -> None:
        self.few = True
        """Whether no more than ``_MOST_VALUES`` different ones occurred: else none is known."""
        self.values = np.empty(0, dtype=np.float32)
        """(n,) float32, rising."""
        self._counts = np.empty(0, dtype=np.int64)

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self._counts.sum())

    def add(self, ranked: npt.NDArray[np.float32]) -> None:
        """Add some (n,), which rise; none is NaN."""
        if not self.few or not ranked.size:
            return
        starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
        if len(starts) <= _MOST_VALUES:
            values = np.concatenate([self.values, ranked[starts]])
            counts = np.concatenate([self._counts, np.diff(starts, append=ranked.size)])
            self.values, places = np.unique(values, return_inverse=True)
            self._counts = np.zeros(len(self.values), dtype=np.int64)
            np.add.at(self._counts, places, counts)
        if max(len(starts), len(self.values)) > _MOST_VALUES:
            self.few = False
            self.values, self._counts = self.values[:0], self._counts[:0]

    def refine(self, *ranks: int) -> None:
        """Nothing to do: all are known."""

    def near(self, rank: int) -> tuple[Int64Array, Int64Array]:
        """All values, of whatever rank."""
        return np.abs(self.values).view(np.uint32).astype(np.int64), np.cumsum(self._counts)


class _Values:
    """Probabilities counted by the bits of their float32, which rise as they do."""

    def __init__(self, planes: Planes, source: str) -> None:
        self._planes = planes
        self._source = source
        bins = np.zeros((_ONE >> _FINE_BITS) + 1, dtype=np.int64)
        for codes in _codes_of(planes, source):
            bins += np.bincount(codes >> _FINE_BITS, minlength=len(bins))
        self._at_most = np.cumsum(bins)
        self._occupied = np.flatnonzero(bins)
        self._fine: dict[int, Int64Array] = {}
        self.count = int(bins.sum())

    def refine(self, *ranks: int) -> None:
        """Count each value near the ``rank`` smallest ones, in one pass."""
        bins = {number for rank in ranks for number in self._bins(rank)} - self._fine.keys()
        if not bins:
            return
        size = 1 << _FINE_BITS
        fine = {number: np.zeros(size, dtype=np.int64) for number in bins}
        for codes in _codes_of(self._planes, self._source):
            upper = codes >> _FINE_BITS
            for number, counts in fine.items():
                counts += np.bincount(codes[upper == number] & (size - 1), minlength=size)
        self._fine |= fine

    def near(self, rank: int) -> tuple[Int64Array, Int64Array]:
        """As ``_Ranked``: those of few bins."""
        bins = self._bins(rank)
        parts = [(number << _FINE_BITS, self._fine[number]) for number in bins]
        codes = np.concatenate([first + np.flatnonzero(counts) for first, counts in parts])
        counts = np.concatenate([counts[counts > 0] for _, counts in parts])
        before = self._at_most[bins[0]] - self._fine[bins[0]].sum()
        return codes, before + np.cumsum(counts)

    def _bins(self, rank: int) -> list[int]:
        """That of the ``rank`` smallest value, and the one before that has values."""
        number = int(np.searchsorted(self._at_most, min(max(rank, 1), self.count)))
        place = int(np.searchsorted(self._occupied, number))
        return [int(bin_) for bin_ in self._occupied[max(place - 1, 0) : place + 1]]


def _codes_of(planes: Planes, source: str) -> Iterator[npt.NDArray[np.uint32]]:
    """The bits of float32 values, which rise as they do; LabelError for what is no probability."""
    for plane in planes():
        values = plane[~np.isnan(plane)].astype(np.float32, copy=False)
        if values.size and not (values.min() >= 0 and values.max() <= 1):
            raise LabelError(
                f"the confidences of {source} are from {values.min():g} to "
                f"{values.max():g}, expected probabilities, 0 to 1: give those."
            )
        # Of 0 there are two, of which -0 would not be the least.
        yield np.abs(values).view(np.uint32)


def _count_of(share: float, views: int) -> int:
    """The largest number of views whose share of all is at most ``share``, as floats divide."""
    count = min(int(share * views) + 1, views)
    while count / views > share:
        count -= 1
    return count


def _shortest(code: int) -> float:
    """The shortest decimal number that a float32 is read from: what a person can copy."""
    return float(str(np.uint32(code).view(np.float32)))
