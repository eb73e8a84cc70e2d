"""Soft labels: what a student learns of a view, as sparse probabilities over a common base."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import LabelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Float32Array = npt.NDArray[np.float32]
    Float64Array = npt.NDArray[np.float64]
    Int32Array = npt.NDArray[np.int32]

__all__ = ["SoftLabels", "hard", "mix", "smooth"]


@dataclass(frozen=True)
class SoftLabels:
    """Distributions over classes as ``base + sparse``; leading axes are free, (B,) as a rule.

    Raises:
        LabelError: the arrays' shapes do not fit each other.
    """

    base: Float32Array
    """(...) float32: the probability of every class before the sparse part is added."""
    indices: Int32Array
    """(..., K) int32 class ids, 0..num_classes-1; a class may stand more than once."""
    weights: Float32Array
    """(..., K) float32: what is added to each; negative where a class is below the base."""
    num_classes: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", np.asarray(self.base, dtype=np.float32))
        object.__setattr__(self, "indices", np.asarray(self.indices, dtype=np.int32))
        object.__setattr__(self, "weights", np.asarray(self.weights, dtype=np.float32))
        if (
            self.indices.shape != self.weights.shape
            or self.indices.shape[:-1] != self.base.shape
            or self.indices.ndim != self.base.ndim + 1
        ):
            raise LabelError(
                f"soft labels have {self.base.shape = }, {self.indices.shape = } and "
                f"{self.weights.shape = }, expected (...), (..., K) and (..., K)."
            )

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, rows: Any) -> SoftLabels:
        """Rows by any NumPy index into the leading axes."""
        return SoftLabels(
            base=self.base[rows],
            indices=self.indices[rows],
            weights=self.weights[rows],
            num_classes=self.num_classes,
        )

    def reshape(self, *shape: int) -> SoftLabels:
        """The same labels with other leading axes."""
        count = self.indices.shape[-1]
        base = self.base.reshape(shape)
        return SoftLabels(
            base=base,
            indices=self.indices.reshape((*base.shape, count)),
            weights=self.weights.reshape((*base.shape, count)),
            num_classes=self.num_classes,
        )

    def dense(self) -> Float32Array:
        """(..., num_classes) float32 probabilities: non-negative, sum 1 to within rounding."""
        size, width = self.base.size, self.indices.shape[-1]
        flat = np.repeat(self.base.reshape(-1, 1).astype(np.float64), self.num_classes, axis=1)
        rows = np.repeat(np.arange(size), width)
        np.add.at(flat, (rows, self.indices.reshape(-1)), self.weights.reshape(-1))
        # Sums of rounded terms may end a unit in the last place below zero.
        return np.maximum(flat, 0.0).astype(np.float32).reshape(*self.base.shape, self.num_classes)

    def total(self) -> Float64Array:
        """(...) float64: the sum of each label, 1 to within float32 rounding."""
        added = self.weights.sum(axis=-1, dtype=np.float64)
        return np.asarray(self.base.astype(np.float64) * self.num_classes + added)

    def probability(self, classes: npt.ArrayLike) -> Float64Array:
        """(...) float64: the probability of one class of each label.

        ``classes`` (...) are class ids, 0..num_classes-1.
        """
        chosen = np.asarray(classes)[..., None] == self.indices
        added = np.where(chosen, self.weights, np.float32(0)).sum(axis=-1, dtype=np.float64)
        return np.asarray(np.maximum(self.base + added, 0.0))

    def cross_entropy(self, logits: npt.ArrayLike) -> Float64Array:
        """(...) float64: ``-sum_c p[c] * log_softmax(logits)[c]`` in nats, in one pass.

        ``sum(p) * logsumexp(z) - base * sum(z) - sum_j weights[j] * z[indices[j]]`` for ``logits``
        z of shape (..., num_classes). The reference of ``labelstore.torch.soft_cross_entropy``.
        """
        z = np.asarray(logits, dtype=np.float64)
        if z.shape != (*self.base.shape, self.num_classes):
            raise LabelError(
                f"logits have {z.shape = }, expected {(*self.base.shape, self.num_classes)}: "
                "give one row of logits for each label."
            )
        # The identity holds for z - c with any c; the largest logit keeps exp in range.
        z = z - z.max(axis=-1, keepdims=True)
        chosen = np.take_along_axis(z, self.indices.astype(np.int64), axis=-1)
        weights = self.weights.astype(np.float64)
        return np.asarray(
            self.total() * np.log(np.exp(z).sum(axis=-1))
            - self.base * z.sum(axis=-1)
            - (weights * chosen).sum(axis=-1)
        )


def hard(classes: npt.ArrayLike, num_classes: int) -> SoftLabels:
    """One-hot labels of class ids (...), each 0..num_classes-1."""
    return smooth(classes, num_classes, 0.0)


def smooth(classes: npt.ArrayLike, num_classes: int, epsilon: float) -> SoftLabels:
    """Smoothed hard labels: 1 - epsilon for the class, epsilon spread over the C - 1 others.

    Args:
        classes: (...) class ids, 0..num_classes-1.
        num_classes: C, at least 2 when epsilon > 0.
        epsilon: 0..1.

    Raises:
        LabelError: a class id is out of range.
        UsageError: epsilon is out of range.
    """
    ids = np.asarray(classes)
    if ids.size and not (int(ids.min()) >= 0 and int(ids.max()) < num_classes):
        raise LabelError(
            f"class ids run from {ids.min()} to {ids.max()}, expected 0 to {num_classes - 1}: "
            "an unknown ground truth (-1) has no label."
        )
    if not 0 <= epsilon <= 1 or (epsilon and num_classes < 2):
        raise UsageError(
            f"smoothing is {epsilon} over {num_classes} classes, expected 0 to 1 over at least 2."
        )
    base = epsilon / (num_classes - 1) if epsilon else 0.0
    return SoftLabels(
        base=np.full(ids.shape, base, dtype=np.float32),
        indices=ids[..., None].astype(np.int32),
        weights=np.full((*ids.shape, 1), (1.0 - epsilon) - base, dtype=np.float32),
        num_classes=num_classes,
    )


def mix(labels: Sequence[SoftLabels], weights: npt.ArrayLike) -> SoftLabels:
    """The weighted sum of labels, by concatenation: nothing is made dense.

    Args:
        labels: M labels of one leading shape (...) and one number of classes.
        weights: (M,) or (M, ...) non-negative; summing to 1 over M they keep a distribution.

    Raises:
        LabelError: the labels do not fit each other, or a weight is negative.
    """
    if not labels:
        raise LabelError("no labels to mix: give at least one.")
    first = labels[0]
    factors = np.asarray(weights, dtype=np.float64)
    if factors.shape[:1] != (len(labels),) or factors.size == 0 or float(factors.min()) < 0:
        raise LabelError(
            f"weights have {factors.shape = }, expected {len(labels)} non-negative entries, "
            "one for each of the labels."
        )
    for label in labels[1:]:
        if label.base.shape != first.base.shape or label.num_classes != first.num_classes:
            raise LabelError(
                f"labels of {label.base.shape} over {label.num_classes} classes cannot be mixed "
                f"with {first.base.shape} over {first.num_classes}: they must agree."
            )
    rows = [np.broadcast_to(factor, first.base.shape) for factor in factors]
    return SoftLabels(
        base=sum(
            (row * label.base for row, label in zip(rows, labels, strict=True)),
            start=np.zeros(first.base.shape),
        ).astype(np.float32),
        indices=np.concatenate([label.indices for label in labels], axis=-1),
        weights=np.concatenate(
            [row[..., None] * label.weights for row, label in zip(rows, labels, strict=True)],
            axis=-1,
        ).astype(np.float32),
        num_classes=first.num_classes,
    )
