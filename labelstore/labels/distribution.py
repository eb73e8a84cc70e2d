"""What needs each class of a soft label once: the largest classes, the mean, entropy. NumPy only.

Labels stay ``base + sparse``: a class that stands more than once in the sparse part (as it may
after mixing) is summed up first, every class outside it has the probability ``base``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import UsageError
from labelstore.labels.top_k import TopK

if TYPE_CHECKING:
    import numpy.typing as npt

    from labelstore.labels.soft_labels import SoftLabels

    Float64Array = npt.NDArray[np.float64]

__all__ = ["each_class_once", "entropy", "largest", "mean_distribution"]


def each_class_once(
    labels: SoftLabels,
) -> tuple[npt.NDArray[np.int32], Float64Array, npt.NDArray[Any]]:
    """Each class of the sparse part once, with its probability.

    Returns:
        (..., K) int32 class ids, rising along a row and then repeating its first; (..., K) float64
        their probabilities, not negative; (..., K) bool, True where a class stands.
    """
    shape, width = labels.indices.shape, labels.indices.shape[-1]
    flat = labels.indices.reshape(labels.base.size, width)
    rows = np.arange(len(flat))[:, None]
    order = np.argsort(flat, axis=1, kind="stable")
    ranked = flat[rows, order]
    slot = np.zeros(flat.shape, dtype=np.int64)
    np.cumsum(ranked[:, 1:] != ranked[:, :-1], axis=1, out=slot[:, 1:])
    weights = labels.weights.reshape(flat.shape)[rows, order].astype(np.float64)
    added = np.bincount((rows * width + slot).reshape(-1), weights.reshape(-1), flat.size)
    classes = np.repeat(ranked[:, :1], width, axis=1)
    classes[rows, slot] = ranked
    present = np.arange(width) <= slot[:, -1:] if width else np.zeros(flat.shape, dtype=bool)
    base = labels.base.reshape(-1, 1).astype(np.float64)
    # Sums of rounded terms may end a unit in the last place below zero.
    probs = np.where(present, np.maximum(base + added.reshape(flat.shape), 0.0), 0.0)
    return classes.reshape(shape), probs.reshape(shape), present.reshape(shape)


def entropy(labels: SoftLabels) -> Float64Array:
    """(...) float64: ``-sum_c p[c] log p[c]`` in nats, exact for the label as it stands."""
    _, probs, present = each_class_once(labels)
    others = labels.num_classes - present.sum(axis=-1)
    base = np.maximum(labels.base.astype(np.float64), 0.0)
    return np.asarray(-_x_log_x(probs).sum(axis=-1) - others * _x_log_x(base))


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


def _x_log_x(x: Float64Array) -> Float64Array:
    return np.asarray(x * np.log(np.where(x > 0, x, 1.0)))
