"""Sums over two labels of each crop: how often they agree, and how far apart they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.statistics.confidence import HISTOGRAM_EDGES, share_of
from labelstore.statistics.quantiles import Quantiles
from labelstore.statistics.sampling import error_of_mean, error_of_share

if TYPE_CHECKING:
    import numpy.typing as npt

    from labelstore.labels.distance import Divergences
    from labelstore.labels.top_k import TopK

    BoolArray = npt.NDArray[np.bool_]
    Float64Array = npt.NDArray[np.float64]
    Int64Array = npt.NDArray[np.int64]

__all__ = ["QUANTILES", "Agreement", "Comparison", "CropPairs", "DecisionCounts"]

QUANTILES = (0.1, 0.5, 0.9, 0.99)
"""Shares of the crops whose distances are at or below the quantiles that are told."""

BINS = len(HISTOGRAM_EDGES) - 1

PAIRS = 50
"""Pairs of classes that are told, at most."""

_PENDING = 1 << 20
"""Pairs of classes that are kept before they are counted."""


@dataclass(frozen=True)
class Agreement:
    """How far the n largest classes of labels a (...) and b (...) are the same."""

    first_a: npt.NDArray[np.int32]
    """(...) the largest class of a; -1 where a label names none."""
    first_b: npt.NDArray[np.int32]
    """(...) of b."""
    top1: BoolArray
    """(...) whether they are the same."""
    shared: Float64Array
    """(...) share of the n largest classes that are the same, 0..1, in any order."""

    @classmethod
    def of(cls, a: TopK, b: TopK) -> Agreement:
        """Of the n largest classes of each, n being the same; empty places are no classes."""
        held_a, held_b = a.probs > 0, b.probs > 0
        same = a.indices[..., :, None] == b.indices[..., None, :]
        same &= held_a[..., :, None] & held_b[..., None, :]
        most = np.maximum(held_a.sum(axis=-1), held_b.sum(axis=-1))
        # Two labels that name no class say the same.
        shared = np.where(most > 0, same.sum(axis=(-2, -1)) / np.maximum(most, 1), 1.0)
        first_a, first_b = (
            np.where(is_stored[..., 0], topk.indices[..., 0], np.int32(-1))
            for topk, is_stored in ((a, held_a), (b, held_b))
        )
        return cls(first_a, first_b, first_a == first_b, shared)


@dataclass(frozen=True)
class CropPairs:
    """Two labels of each of some crops: m crops of each of n images."""

    agreement: Agreement
    divergences: Divergences
    confidence_a: npt.NDArray[np.float32]
    """(n, m) the largest probability of a."""
    confidence_b: npt.NDArray[np.float32]
    """(n, m) of b."""
    targets: npt.NDArray[np.int32]
    """(n,) ground truth, -1 where unknown."""
    holds_a: BoolArray
    """(n, m) whether the ground truth is among a's n largest classes."""
    holds_b: BoolArray
    """(n, m) among b's."""


class Comparison:
    """Sums over crops that come in parts.

    Args:
        num_classes: C; n: how many of the largest classes are compared.
    """

    def __init__(self, num_classes: int, n: int) -> None:
        self.crops = 0
        """How many crops there were."""
        self._n = n
        self._means: dict[str, _Mean] = {}
        self._quantiles = {name: Quantiles() for name in ("kl_ab", "kl_ba", "total_variation")}
        self._variation = np.zeros(BINS, dtype=np.int64)
        self._scatter = np.zeros((BINS, BINS), dtype=np.int64)
        self._classes = _ClassSums(num_classes)
        self._pairs = _PairCounts(num_classes)
        self._judged_images = 0

    def add(self, crops: CropPairs, count_images: bool = True) -> None:
        """More crops. ``count_images``: whether no crops of these images came before."""
        agreement, apart = crops.agreement, crops.divergences
        self.crops += agreement.top1.size
        values: dict[str, npt.NDArray[Any]] = {
            "top1": agreement.top1,
            "top_n": agreement.shared,
            "same_set": agreement.shared == 1,
            "kl_ab": apart.kl_ab,
            "kl_ba": apart.kl_ba,
            "total_variation": apart.total_variation,
            "confidence_a": crops.confidence_a,
            "confidence_b": crops.confidence_b,
        }
        known = crops.targets >= 0
        if known.any():
            values |= self._truth(crops, known, count_images)
        for name, array in values.items():
            self._means.setdefault(name, _Mean()).add(array)
        for name, quantiles in self._quantiles.items():
            quantiles.add(values[name])
        rows, columns = _bins(crops.confidence_a), _bins(crops.confidence_b)
        self._scatter += np.bincount(rows * BINS + columns, minlength=BINS**2).reshape(BINS, BINS)
        self._variation += np.bincount(_bins(apart.total_variation), minlength=BINS)
        self._classes.add(crops, count_images)
        self._pairs.add(agreement)

    def _truth(
        self, crops: CropPairs, known: BoolArray, count_images: bool
    ) -> dict[str, npt.NDArray[Any]]:
        self._judged_images += int(known.sum()) if count_images else 0
        targets = crops.targets[known, None]
        right_a = crops.agreement.first_a[known] == targets
        right_b = crops.agreement.first_b[known] == targets
        return {
            "truth_a": right_a,
            "truth_b": right_b,
            "truth_top_n_a": crops.holds_a[known],
            "truth_top_n_b": crops.holds_b[known],
            "both": right_a & right_b,
            "only_a": right_a & ~right_b,
            "only_b": right_b & ~right_a,
            "neither": ~(right_a | right_b),
        }

    def report(self, of_each: int, views: int, known: bool = True) -> dict[str, Any]:
        """``agreement``, ``kl_ab``, ``kl_ba``, ``total_variation``, ``confidence``, ``truth``,
        ``classes`` and ``pairs``, as ``labelstore compare --json`` tells them.

        Args:
            of_each: crops of each image that were added, of ``views`` that it has.
            known: whether the errors of estimates are known; None is told for them where not.
        """
        ratio = (views, of_each)

        def estimate(name: str) -> dict[str, float | None]:
            mean = self._means[name]
            return {"mean": mean.value, "error": mean.error(ratio) if known else None}

        def distance(name: str) -> dict[str, Any]:
            quantiles, whole = self._quantiles[name], self.crops * views // of_each
            entries = [
                {
                    "share": share,
                    "value": quantiles.value(share),
                    "error": quantiles.error(share, whole) if known else None,
                }
                for share in QUANTILES
            ]
            return {**estimate(name), "quantiles": entries}

        edges = zip(
            HISTOGRAM_EDGES[:-1], HISTOGRAM_EDGES[1:], self._variation.tolist(), strict=True
        )
        return {
            "agreement": {
                "top1": estimate("top1"),
                "n": self._n,
                "top_n": estimate("top_n"),
                "same_set": estimate("same_set"),
            },
            "kl_ab": distance("kl_ab"),
            "kl_ba": distance("kl_ba"),
            "total_variation": {
                **distance("total_variation"),
                "histogram": [{"low": a, "high": b, "count": count} for a, b, count in edges],
            },
            "confidence": {
                "a": estimate("confidence_a"),
                "b": estimate("confidence_b"),
                "edges": list(HISTOGRAM_EDGES),
                "counts": self._scatter.tolist(),
            },
            "truth": self._truth_report(estimate) if self._judged_images else None,
            "classes": self._classes.rows(ratio, known),
            "pairs": self._pairs.rows(self.crops),
        }

    def _truth_report(self, estimate: Any) -> dict[str, Any]:
        return {
            "images": self._judged_images,
            "crops": self._means["truth_a"].count,
            "a": {"top1": estimate("truth_a"), "top_n": estimate("truth_top_n_a")},
            "b": {"top1": estimate("truth_b"), "top_n": estimate("truth_top_n_b")},
            **{name: estimate(name) for name in ("both", "only_a", "only_b", "neither")},
        }


class DecisionCounts:
    """What two decide of the same crops: counts of the pairs of decisions.

    Args:
        names: of the decisions, by their numbers.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._counts = np.zeros((len(names), len(names)), dtype=np.int64)

    def add(self, of_a: npt.NDArray[Any], of_b: npt.NDArray[Any]) -> None:
        """Numbers of the decisions of a and b, of one shape."""
        size = len(self._names)
        places = of_a.reshape(-1).astype(np.int64) * size + of_b.reshape(-1)
        self._counts += np.bincount(places, minlength=size**2).reshape(size, size)

    def rows(self, whole: int) -> list[dict[str, Any]]:
        """``a``, ``b``, ``count``, ``share`` and ``error`` of every pair; ``whole`` crops exist."""
        crops = int(self._counts.sum())
        return [
            {
                "a": of_a,
                "b": of_b,
                "count": count,
                "share": share_of(count, crops),
                "error": error_of_share(count, crops, whole),
            }
            for of_a, row in zip(self._names, self._counts.tolist(), strict=True)
            for of_b, count in zip(self._names, row, strict=True)
        ]


class _Mean:
    """The mean of values that come in parts."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = self._squares = 0.0

    def add(self, values: npt.NDArray[Any]) -> None:
        exact = values.astype(np.float64)
        self.count += exact.size
        self._sum += float(exact.sum())
        self._squares += float((exact**2).sum())

    @property
    def value(self) -> float | None:
        return self._sum / self.count if self.count else None

    def error(self, ratio: tuple[int, int]) -> float:
        whole = self.count * ratio[0] // ratio[1]
        return error_of_mean(self._sum, self._squares, self.count, whole)


class _ClassSums:
    """Sums by class: of the ground truth, and of what the labels say."""

    def __init__(self, num_classes: int) -> None:
        self._size = num_classes
        self._sums = {
            name: np.zeros(num_classes)
            for name in ("images", "crops", "same", "tv", "tv_squared", "right_a", "right_b")
        }
        self._first = {name: np.zeros(num_classes) for name in ("a", "b", "both")}

    def add(self, crops: CropPairs, count_images: bool) -> None:
        agreement = crops.agreement
        first = {
            "a": agreement.first_a,
            "b": agreement.first_b,
            "both": np.where(agreement.top1, agreement.first_a, -1),
        }
        for name, classes in first.items():
            self._first[name] += self._count(classes[classes >= 0])
        known = crops.targets >= 0
        if not known.any():
            return
        targets = crops.targets[known]
        if count_images:
            self._sums["images"] += self._count(targets)
        variation = crops.divergences.total_variation[known]
        sums = {
            "crops": np.ones_like(variation),
            "same": agreement.top1[known],
            "tv": variation,
            "tv_squared": variation**2,
            "right_a": agreement.first_a[known] == targets[:, None],
            "right_b": agreement.first_b[known] == targets[:, None],
        }
        for name, values in sums.items():
            self._sums[name] += self._count(targets, values.sum(axis=1, dtype=np.float64))

    def _count(self, classes: npt.NDArray[Any], weights: Any = None) -> Float64Array:
        return np.bincount(classes.reshape(-1), weights, self._size).astype(np.float64)

    def rows(self, ratio: tuple[int, int], known: bool) -> list[dict[str, Any]]:
        """A dict of each class that is somewhere, by class id."""
        named = self._sums["images"] > 0
        for counts in self._first.values():
            named |= counts > 0
        return [self._row(int(number), ratio, known) for number in np.flatnonzero(named)]

    def _row(self, number: int, ratio: tuple[int, int], known: bool) -> dict[str, Any]:
        sums = {name: float(values[number]) for name, values in self._sums.items()}
        crops = int(sums["crops"])
        whole = crops * ratio[0] // ratio[1]
        errors: dict[str, float | None] = {"agreement_error": None, "total_variation_error": None}
        if crops and known:
            errors = {
                "agreement_error": error_of_share(int(sums["same"]), crops, whole),
                "total_variation_error": error_of_mean(
                    sums["tv"], sums["tv_squared"], crops, whole
                ),
            }
        return {
            "class": number,
            "images": int(sums["images"]),
            "crops": crops,
            "agreement": share_of(sums["same"], crops),
            "total_variation": share_of(sums["tv"], crops),
            **errors,
            "truth_a": share_of(sums["right_a"], crops),
            "truth_b": share_of(sums["right_b"], crops),
            **{f"largest_{name}": int(counts[number]) for name, counts in self._first.items()},
        }


class _PairCounts:
    """How often a's largest class is one and b's another, of each pair that occurs."""

    def __init__(self, num_classes: int) -> None:
        self._size = num_classes
        self._pending: list[Int64Array] = []
        self._codes = np.empty(0, dtype=np.int64)
        self._counts = np.empty(0, dtype=np.int64)

    def add(self, agreement: Agreement) -> None:
        named = ~agreement.top1 & (agreement.first_a >= 0) & (agreement.first_b >= 0)
        codes = agreement.first_a[named].astype(np.int64) * self._size + agreement.first_b[named]
        self._pending.append(codes)
        if sum(part.size for part in self._pending) > _PENDING:
            self._merge()

    def _merge(self) -> None:
        parts = [np.unique(part, return_counts=True) for part in self._pending]
        codes = np.concatenate([self._codes, *(part[0] for part in parts)])
        counts = np.concatenate([self._counts, *(part[1] for part in parts)])
        self._pending = []
        self._codes, places = np.unique(codes, return_inverse=True)
        totals = np.bincount(places.reshape(-1), counts, len(self._codes))
        self._counts = totals.astype(np.int64)

    def rows(self, crops: int) -> list[dict[str, Any]]:
        """The most frequent pairs first; of equals that of the smaller classes."""
        self._merge()
        order = np.argsort(-self._counts, kind="stable")[:PAIRS]
        return [
            {
                "a": code // self._size,
                "b": code % self._size,
                "crops": count,
                "share": share_of(count, crops),
            }
            for code, count in zip(
                self._codes[order].tolist(), self._counts[order].tolist(), strict=True
            )
        ]


def _bins(values: npt.NDArray[Any]) -> Int64Array:
    # Edges as float32, like probabilities as they are stored.
    edges = np.array(HISTOGRAM_EDGES[1:-1], dtype=np.float32)
    return np.searchsorted(edges, values.reshape(-1).astype(np.float32), side="right")
