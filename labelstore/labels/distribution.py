"""What needs each class of a soft label once: the largest classes, the mean, entropy. NumPy only.

Labels stay ``base + sparse``: a class that stands more than once in the sparse part (as it may
after mixing) is summed up first, every class outside it has the probability ``base``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import UsageError
from labelstore.labels.top_k import TopK

if TYPE_CHECKING:
    import numpy.typing as npt

    from labelstore.labels.soft_labels import SoftLabels

    Float64Array = npt.NDArray[np.float64]

__all__ = [
    "each_class_of_both",
    "each_class_once",
    "entropy",
    "largest",
    "mean_distribution",
    "x_log_x",
]


def each_class_once(
    labels: SoftLabels,
) -> tuple[npt.NDArray[np.int32], Float64Array, npt.NDArray[Any]]:
    """Each class of the sparse part once, with its probability.

    Returns:
        (..., K) int32 class ids, rising along a row and then repeating its first; (..., K) float64
        their probabilities, not negative; (..., K) bool, True where a class stands.
    """
    union = _Union(labels.indices)
    return union.classes, union.probabilities(labels.base, labels.weights), union.present


def each_class_of_both(
    a: SoftLabels, b: SoftLabels
) -> tuple[npt.NDArray[np.int32], Float64Array, Float64Array, npt.NDArray[Any]]:
    """Each class of the sparse part of either label once, with its probability in both.

    Args:
        a, b: labels of one leading shape (...) over the same classes.

    Returns:
        (..., K) int32 class ids, rising along a row and then repeating its first, K being the sum
        of the two widths; (..., K) float64 their probabilities in ``a``, and in ``b``, not
        negative; (..., K) bool, True where a class stands. Of every other class the probabilities
        are the two bases.
    """
    union = _Union(np.concatenate([a.indices, b.indices], axis=-1))
    widths = a.indices.shape[-1], b.indices.shape[-1]
    behind, ahead = ([(0, 0)] * a.base.ndim + [room] for room in ((0, widths[1]), (widths[0], 0)))
    return (
        union.classes,
        union.probabilities(a.base, np.pad(a.weights, behind)),
        union.probabilities(b.base, np.pad(b.weights, ahead)),
        union.present,
    )


class _Union:
    """The different classes among the indices (..., K) of each label, in rising order."""

    def __init__(self, indices: npt.NDArray[np.int32]) -> None:
        width = indices.shape[-1]
        flat = indices.reshape(math.prod(indices.shape[:-1]), width)
        self._rows = np.arange(len(flat))[:, None]
        self._order = np.argsort(flat, axis=1, kind="stable")
        ranked = flat[self._rows, self._order]
        self._slot = np.zeros(flat.shape, dtype=np.int64)
        np.cumsum(ranked[:, 1:] != ranked[:, :-1], axis=1, out=self._slot[:, 1:])
        classes = np.repeat(ranked[:, :1], width, axis=1)
        classes[self._rows, self._slot] = ranked
        present = np.arange(width) <= self._slot[:, -1:]
        self.classes = classes.reshape(indices.shape)
        self.present = present.reshape(indices.shape)

    def probabilities(
        self, base: npt.NDArray[np.float32], weights: npt.NDArray[np.float32]
    ) -> Float64Array:
        """(..., K) float64 of the classes: the base (...) and their weights (..., K) added up."""
        shape, width = weights.shape, weights.shape[-1]
        ranked = weights.reshape(self._slot.shape)[self._rows, self._order].astype(np.float64)
        places = (self._rows * width + self._slot).reshape(-1)
        added = np.bincount(places, ranked.reshape(-1), ranked.size).reshape(shape)
        # Sums of rounded terms may end a unit in the last place below zero.
        probs = np.maximum(base[..., None].astype(np.float64) + added, 0.0)
        return np.asarray(np.where(self.present, probs, 0.0))


def entropy(labels: SoftLabels) -> Float64Array:
    """(...) float64: ``-sum_c p[c] log p[c]`` in nats, exact for the label as it stands."""
    _, probs, present = each_class_once(labels)
    others = labels.num_classes - present.sum(axis=-1)
    base = np.maximum(labels.base.astype(np.float64), 0.0)
    return np.asarray(-x_log_x(probs).sum(axis=-1) - others * x_log_x(base))


def largest(labels: SoftLabels, k: int) -> TopK:
    """The k largest classes of each label (...), largest first; of equals the smaller id first.

    A label has fewer (the last places hold probability 0) where no more classes stand out from the
    base, which all classes of its tail have.

    Raises:
        UsageError: k is not 1 to the number of classes.
    """
    if not 1 <= k <= labels.num_classes:
        raise UsageError(f"k is {k}, expected 1 to {labels.num_classes}, the number of classes.")
    classes, probs, present = each_class_once(labels)
    probs = np.where(present & (probs > labels.base[..., None]), probs, 0.0)
    width = probs.shape[-1]
    if width < k:
        room = [(0, 0)] * (probs.ndim - 1) + [(0, k - width)]
        classes, probs = np.pad(classes, room), np.pad(probs, room)
    order = np.argsort(-probs, axis=-1, kind="stable")[..., :k]
    return TopK(
        np.take_along_axis(classes, order, axis=-1),
        np.take_along_axis(probs, order, axis=-1).astype(np.float32),
        labels.num_classes,
    )


def mean_distribution(labels: SoftLabels) -> Float64Array:
    """(C,) float64: the mean of all the labels (...), as probabilities of every class."""
    added = np.bincount(
        labels.indices.reshape(-1), labels.weights.reshape(-1), minlength=labels.num_classes
    )
    mean = (labels.base.sum(dtype=np.float64) + added) / max(labels.base.size, 1)
    return np.asarray(np.maximum(mean, 0.0))


def x_log_x(x: Float64Array) -> Float64Array:
    """(...) ``x log x`` in nats of what is not negative; 0 for 0."""
    return np.asarray(x * np.log(np.where(x > 0, x, 1.0)))
