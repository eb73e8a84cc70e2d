"""The largest probability of a label: of one teacher, or of the mean over several."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labelstore.labels.prior import ImagePrior
from labelstore.labels.top_k import TopK

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from labelstore.labels.ensemble import EnsembleTopK
    from labelstore.labels.soft_labels import SoftLabels

__all__ = ["largest_of_mean", "largest_probability", "weighted_mean"]


def largest_probability(labels: SoftLabels) -> npt.NDArray[np.float32]:
    """(...) the largest probability of labels."""
    of_each = labels.reshape(*labels.base.shape, 1).probability(labels.indices)
    return np.asarray(np.maximum(of_each.max(axis=-1), labels.base), dtype=np.float32)


def largest_of_mean(topk: EnsembleTopK) -> npt.NDArray[np.float32]:
    """(...) the largest of the mean over teachers; of a class that any of them stores or lists."""
    lists = [member.prior.classes for member in topk.members if member.prior is not None]
    # Class 0 stands for an empty place: one more candidate.
    named = [np.maximum(classes, 0) for classes in lists]
    candidates = np.concatenate([*(member.indices for member in topk.members), *named], axis=-1)
    parts = [_for_several(member).probability(candidates) for member in topk.members]
    return np.asarray(weighted_mean(parts, topk.weights).max(axis=-1))


def _for_several(topk: TopK) -> TopK:
    """The same labels with one more leading axis of 1, to broadcast with several classes each."""
    prior = topk.prior
    if prior is not None:
        lists = prior.classes[..., None, :], prior.probs[..., None, :]
        prior = ImagePrior(*lists, prior.power[..., None])
    return TopK(topk.indices[..., None, :], topk.probs[..., None, :], topk.num_classes, prior)


def weighted_mean(
    parts: Sequence[npt.NDArray[np.float32]], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """The teachers' probabilities averaged by their weights, rounded once."""
    weighed = [w * part.astype(np.float64) for w, part in zip(weights.tolist(), parts, strict=True)]
    return np.asarray(np.sum(weighed, axis=0), dtype=np.float32)
