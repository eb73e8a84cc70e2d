"""Sums over whole labels: entropy, what each image's views say on average, and how they differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.labels.distribution import x_log_x
from labelstore.statistics.sampling import error_of_mean

if TYPE_CHECKING:
    import numpy.typing as npt

    from labelstore.labels.soft_labels import SoftLabels

    Float64Array = npt.NDArray[np.float64]
    Int64Array = npt.NDArray[np.int64]

__all__ = ["Spread", "drift_of", "entropy_of", "mean_labels"]

BINS = 20
"""Bins of the histograms of entropy and drift."""


def entropy_of(labels: SoftLabels) -> Float64Array:
    """(...) float64: ``-sum_c p[c] log p[c]`` in nats, of labels as they are recovered.

    A class must not stand twice with weight in the sparse part (``labels.distribution.entropy``
    is for such, and much slower).
    """
    base = np.maximum(labels.base.astype(np.float64), 0.0)
    named = labels.weights != 0
    probs = np.maximum(base[..., None] + labels.weights, 0.0)
    inside = np.where(named, x_log_x(probs), 0.0).sum(axis=-1)
    outside = labels.num_classes - named.sum(axis=-1)
    return np.asarray(-(inside + outside * x_log_x(base)))


def mean_labels(labels: SoftLabels) -> Float64Array:
    """(n, C) float64: the mean label of each image over its views.

    ``labels`` (n, V) of n images.
    """
    images, classes = labels.base.shape[0], labels.num_classes
    views = max(labels.base.shape[1], 1)
    places = np.arange(images)[:, None, None] * classes + labels.indices
    added = np.bincount(places.reshape(-1), labels.weights.reshape(-1), images * classes)
    # In place: they are megabytes.
    means = np.asarray(added.reshape(images, classes), dtype=np.float64)
    means += labels.base.sum(axis=1, dtype=np.float64)[:, None]
    means /= views
    return np.asarray(np.maximum(means, 0.0, out=means))


def drift_of(labels: SoftLabels, means: Float64Array) -> Float64Array:
    """(n,) float64: the trace of the covariance of each image's labels over its views, 0..1.

    ``mean_v |p_v|^2 - |mean_v p_v|^2``: 0 where all views say the same (HALD, arXiv 2512.15647:
    how far the labels of few crops are from those of many).

    Args:
        labels: (n, V), no class twice with weight; means: (n, C) their means by image.
    """
    base = labels.base.astype(np.float64)
    weights = labels.weights.astype(np.float64)
    # |b + w|^2 summed over the C classes, most of which have b alone.
    squares = labels.num_classes * base**2 + 2 * base * weights.sum(axis=-1)
    squares += (weights**2).sum(axis=-1)
    return np.asarray(np.maximum(squares.mean(axis=1) - (means**2).sum(axis=1), 0.0))


@dataclass
class Spread:
    """A histogram and the mean of values in [0, top] that come in parts."""

    top: float

    def __post_init__(self) -> None:
        self.count = 0
        self._sum = 0.0
        self._squares = 0.0
        self._counts = np.zeros(BINS, dtype=np.int64)

    def add(self, values: npt.NDArray[Any]) -> None:
        """More values, of any shape."""
        self.count += values.size
        self._sum += float(values.sum(dtype=np.float64))
        self._squares += float((values.astype(np.float64) ** 2).sum())
        scale = BINS / self.top if self.top > 0 else 0.0
        bins = np.clip((values.reshape(-1) * scale).astype(np.int64), 0, BINS - 1)
        self._counts += np.bincount(bins, minlength=BINS)

    @property
    def mean(self) -> float | None:
        """Of all values; None before there are any."""
        return self._sum / self.count if self.count else None

    def error(self, whole: int) -> float:
        """Half the width of the 95 % interval of the mean, when there are ``whole`` values."""
        return error_of_mean(self._sum, self._squares, self.count, whole)

    def histogram(self) -> list[dict[str, Any]]:
        """``low``, ``high`` and ``count`` of each of 20 bins of equal width."""
        edges = np.linspace(0.0, self.top, BINS + 1).tolist()
        return [
            {"low": low, "high": high, "count": count}
            for low, high, count in zip(edges[:-1], edges[1:], self._counts.tolist(), strict=True)
        ]
