"""The largest probability of a label: of one teacher, or of the mean over several."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labelstore.labels.prior import MOST_UNSEEN, ImagePrior
from labelstore.labels.top_k import TopK
from labelstore.labels.unseen import probability_of_unseen

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from labelstore.labels.ensemble import EnsembleTopK
    from labelstore.labels.soft_labels import SoftLabels

__all__ = ["largest_of_mean", "largest_probability", "weighted_mean"]

_HEADS = 2
"""Classes of each teacher that are looked at first."""

_TOGETHER = 1024
"""Labels that are looked at at a time."""

_ROUNDING = 1e-6
"""More than rounding changes a probability by."""


def largest_probability(labels: SoftLabels) -> npt.NDArray[np.float32]:
    """(...) the largest probability of labels."""
    of_each = labels.reshape(*labels.base.shape, 1).probability(labels.indices)
    return np.asarray(np.maximum(of_each.max(axis=-1), labels.base), dtype=np.float32)


def largest_of_mean(topk: EnsembleTopK) -> npt.NDArray[np.float32]:
    """(...) the largest of the mean over teachers; of a class that any of them stores or lists."""
    shape = topk.members[0].probs.shape[:-1]
    members = [_in_rows(member) for member in topk.members]
    out, certain, of_stored = _of_heads(members, topk.weights)
    for with_lists, chosen in ((False, ~certain & of_stored), (True, ~certain & ~of_stored)):
        left = np.flatnonzero(chosen)
        for start in range(0, len(left), _TOGETHER):
            rows = left[start : start + _TOGETHER]
            parts = [member[rows] for member in members]
            out[rows] = _of_candidates(parts, topk.weights, with_lists)
    return out.reshape(shape)


def _in_rows(topk: TopK) -> TopK:
    """The same labels along one axis."""
    count, prior = topk.probs[..., 0].size, topk.prior
    if prior is not None:
        width = prior.classes.shape[-1]
        lists = prior.classes.reshape(count, width), prior.probs.reshape(count, width)
        prior = ImagePrior(*lists, prior.power.reshape(count))
    k = topk.k
    whole = topk.indices.reshape(count, k), topk.probs.reshape(count, k)
    return TopK(*whole, topk.num_classes, prior)


def _of_heads(
    members: list[TopK], weights: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """What the largest stored probabilities of labels (n, k) say of the largest mean.

    Returns:
        (n,) the largest mean of a class that is among the ``_HEADS`` largest of a teacher and that
        all of them store; (n,) whether it is certain that no other class has more; (n,) whether
        it is certain that no class has more that no teacher stores.
    """
    heads = [min(_HEADS, member.k) for member in members]
    parts = zip(members, heads, strict=True)
    classes = np.concatenate([member.indices[:, :head] for member, head in parts], axis=-1)
    stored, most = [], []
    others, unseen = np.zeros(len(classes)), np.zeros(len(classes))
    for member, head, weight in zip(members, heads, weights.tolist(), strict=True):
        own = np.full(classes.shape, -1, dtype=np.float32)
        for place in range(member.k):
            probs = member.probs[:, place : place + 1]
            same = (classes == member.indices[:, place : place + 1]) & (probs > 0)
            own = np.where(same, probs, own)
        bound = _most_unseen(member)
        stored.append(own)
        most.append(np.where(own < 0, bound[:, None], own))
        unseen += weight * bound
        others += weight * (np.maximum(member.probs[:, head], bound) if head < member.k else bound)
    by_all = np.all([own >= 0 for own in stored], axis=0)
    known = weighted_mean([np.maximum(own, np.float32(0)) for own in stored], weights)
    mean = np.where(by_all, known, np.float32(-1))
    at = mean.argmax(axis=-1)[:, None]
    best = np.take_along_axis(mean, at, axis=-1)
    bounds = np.sum([w * part for w, part in zip(weights.tolist(), most, strict=True)], axis=0)
    beaten = (bounds < best - _ROUNDING) | (classes == np.take_along_axis(classes, at, axis=-1))
    certain = beaten.all(axis=-1) & (others < best[:, 0] - _ROUNDING)
    return best[:, 0], certain, unseen < known.max(axis=-1) - _ROUNDING


def _most_unseen(topk: TopK) -> npt.NDArray[np.float64]:
    """(n,) what a class that a label (n, k) does not store is recovered to at the most."""
    residual = np.maximum(1.0 - topk.probs.sum(axis=-1, dtype=np.float64), 0.0)
    listed = 0 if topk.prior is None else topk.prior.classes.shape[-1]
    outside = topk.num_classes - topk.k - listed
    if outside < 1:
        return np.asarray(residual)
    # Where there are classes outside the list, none of it has more than a share of the least one.
    least = np.where(topk.probs > 0, topk.probs, np.float32(np.inf)).min(axis=-1)
    limit = MOST_UNSEEN * np.where(np.isinf(least), 2.0, least)
    return np.asarray(np.maximum(np.minimum(limit, residual), residual / outside))


def _of_candidates(
    members: list[TopK], weights: npt.NDArray[np.float64], with_lists: bool
) -> npt.NDArray[np.float32]:
    """(n,) the largest mean of the classes that any teacher stores.

    Args:
        members: labels (n, k) of each.
        weights: theirs.
        with_lists: whether the classes of the lists are candidates, beside those that are stored.
    """
    lists = [part.prior.classes for part in members if with_lists and part.prior is not None]
    # Class 0 stands for an empty place: one more candidate.
    named = [np.maximum(classes, 0) for classes in lists]
    candidates = np.concatenate([*(part.indices for part in members), *named], axis=-1)
    parts = []
    for member in members:
        own = probability_of_unseen(member, candidates)
        for place in range(member.k):
            probs = member.probs[:, place : place + 1]
            same = candidates == member.indices[:, place : place + 1]
            np.copyto(own, probs, where=same & (probs > 0))
        parts.append(own)
    return np.asarray(weighted_mean(parts, weights).max(axis=-1))


def weighted_mean(
    parts: Sequence[npt.NDArray[np.float32]], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """The teachers' probabilities averaged by their weights, rounded once."""
    weighed = [w * part.astype(np.float64) for w, part in zip(weights.tolist(), parts, strict=True)]
    return np.asarray(np.sum(weighed, axis=0), dtype=np.float32)
