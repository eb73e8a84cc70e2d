"""The labels that take the place of uncertain ones: the ground truth smoothed, or made to lead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labelstore.errors import LabelError
from labelstore.labels.soft_labels import SoftLabels, smooth

if TYPE_CHECKING:
    import numpy.typing as npt

    BoolArray = npt.NDArray[np.bool_]
    Int64Array = npt.NDArray[np.int64]

__all__ = ["known_truth", "with_leading_truth", "with_smoothed_truth"]


def with_smoothed_truth(
    labels: SoftLabels, chosen: BoolArray, targets: Int64Array, smoothing: float
) -> SoftLabels:
    """FerKD's equation 4: the ground truth with 1 - epsilon, epsilon over the C - 1 others.

    A single class has all of it.

    Args:
        labels: labels (...), of at least one slot each.
        chosen: (...) bool, which of them are replaced.
        targets: (n,) ground-truth class ids of the chosen ones, 0..num_classes-1.
        smoothing: epsilon, 0..1.
    """
    truth = smooth(targets, labels.num_classes, smoothing if labels.num_classes > 1 else 0.0)
    base, weights = labels.base.copy(), labels.weights.copy()
    indices = labels.indices.copy()
    base[chosen] = truth.base
    # The first slot takes the ground truth; the others stay as slots without weight.
    indices[chosen, 0] = truth.indices[:, 0]
    weights[chosen] = 0.0
    weights[chosen, 0] = truth.weights[:, 0]
    return SoftLabels(base, indices, weights, labels.num_classes)


def with_leading_truth(
    labels: SoftLabels, chosen: BoolArray, targets: Int64Array, alpha: float
) -> SoftLabels:
    """LoCa (Yang et al., "LoCa: Logit Calibration for Knowledge Distillation", ECAI 2024).

    With g the ground truth's probability and m the largest of another class, and where g is not
    larger than m: the probabilities of all other classes are multiplied by
    ``s = alpha / (1 - g + m)`` and the ground truth gets the rest, ``1 - s (1 - g)``. So it leads,
    since ``1 - s (1 - g) > s m`` for every s below ``1 / (1 - g + m)``, and the other classes keep
    their proportions. A label whose ground truth leads stays as it is.

    Args:
        labels: labels (...) of K slots.
        chosen: (...) bool, which of them are calibrated.
        targets: (n,) ground-truth class ids of the chosen ones, 0..num_classes-1.
        alpha: above 0, below 1.

    Returns:
        labels (...) of K + 1 slots: the last adds to the ground truth.
    """
    part = labels[chosen]
    own = part.probability(targets)
    of_each = part.reshape(len(part), 1).probability(part.indices)
    others = np.where(part.indices == targets[:, None], -np.inf, of_each).max(axis=-1)
    rival = np.maximum(others, part.base)
    leads = own > rival
    scale = np.where(leads, 1.0, alpha / np.where(leads, 1.0, 1.0 - own + rival))

    base, weights = labels.base.copy(), labels.weights.copy()
    base[chosen] = scale * part.base
    weights[chosen] = scale[:, None] * part.weights
    truth = np.zeros(labels.base.shape, dtype=np.int32)
    added = np.zeros(labels.base.shape, dtype=np.float32)
    truth[chosen], added[chosen] = targets, 1.0 - scale
    return SoftLabels(
        base,
        np.concatenate([labels.indices, truth[..., None]], axis=-1),
        np.concatenate([weights, added[..., None]], axis=-1),
        labels.num_classes,
    )


def known_truth(
    targets: npt.ArrayLike | None, shape: tuple[int, ...], purpose: str
) -> npt.NDArray[np.int64]:
    """Ground truth broadcast to ``shape``, all of it known; LabelError otherwise."""
    truths = np.asarray(-1 if targets is None else targets, dtype=np.int64)
    known = np.broadcast_to(truths, shape)
    missing = int((known < 0).sum())
    if missing:
        raise LabelError(
            f"{purpose} needs the ground truth and {missing} of {known.size} views have "
            "none: give targets, or make the store with class folders or a class map.",
            arguments=("targets",),
        )
    return known
