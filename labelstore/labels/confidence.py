"""The largest probability of a label: of one teacher, or of the mean over several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from labelstore.labels.unseen import most_of_unseen, probability_of_unseen

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from labelstore.labels.ensemble import EnsembleTopK
    from labelstore.labels.soft_labels import SoftLabels
    from labelstore.labels.top_k import TopK

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
    topk = topk.reshape(-1)
    out, high = bounds_of_heads(topk)
    unseen = _weighted([most_of_unseen(member) for member in topk.members], topk.weights)
    of_stored = unseen < out - _ROUNDING
    for with_lists in (False, True):
        left = np.flatnonzero((high > out) & (of_stored != with_lists))
        for start in range(0, len(left), _TOGETHER):
            rows = left[start : start + _TOGETHER]
            out[rows] = _of_candidates(topk[rows], with_lists)
    return out.reshape(shape)


class Bounds(NamedTuple):
    """Between which two numbers a probability lies, both included."""

    low: npt.NDArray[np.float32]
    """(n,): it is not less."""
    high: npt.NDArray[Any]
    """(n,): nor more; where this is ``low`` itself, it is this, to the bit."""


def bounds_of_class(topk: TopK | EnsembleTopK, classes: npt.NDArray[np.integer]) -> Bounds:
    """Bounds of the mean probability of a class of each label, by what is stored.

    Args:
        topk: labels (n, k) of each teacher.
        classes: (n,) ids.
    """
    least, most, known = [], [], np.ones(len(classes), dtype=bool)
    for member in topk.members:
        own = _stored_probability(member, classes)
        stored = own >= 0
        least.append(np.where(stored, own, np.float32(0)))
        most.append(np.where(stored, own, most_of_unseen(member)))
        known &= stored
    low = weighted_mean(least, topk.weights)
    return Bounds(low, np.where(known, low, _weighted(most, topk.weights) + _ROUNDING))


def bounds_of_first(topk: EnsembleTopK) -> Bounds:
    """Bounds of the largest mean of labels (n, k), by the largest class of each teacher: where all
    have the same one, it is known."""
    first = topk.members[0].indices[:, 0]
    most, agree = [], np.ones(len(first), dtype=bool)
    for member in topk.members:
        top, bound = member.probs[:, 0], most_of_unseen(member)
        agree &= (member.indices[:, 0] == first) & (top > 0) & (bound + _ROUNDING <= top)
        most.append(np.maximum(top, bound))
    tops = [member.probs[:, 0] for member in topk.members]
    # Alone, a teacher's largest is what is left where the others give that class nothing.
    alone = np.max([weight * top for weight, top in zip(topk.weights, tops, strict=True)], axis=0)
    low = np.where(agree, weighted_mean(tops, topk.weights), alone.astype(np.float32))
    return Bounds(low, np.where(agree, low, _weighted(most, topk.weights) + _ROUNDING))


def bounds_of_heads(topk: EnsembleTopK) -> Bounds:
    """Bounds of the largest mean of labels (n, k), by the ``_HEADS`` largest classes of each
    teacher."""
    members, weights = topk.members, topk.weights
    heads = [min(_HEADS, member.k) for member in members]
    parts = zip(members, heads, strict=True)
    classes = np.concatenate([member.indices[:, :head] for member, head in parts], axis=-1)
    stored, most = [], []
    others = np.zeros(len(classes))
    for member, head, weight in zip(members, heads, weights.tolist(), strict=True):
        own = _stored_probability(member, classes)
        bound = most_of_unseen(member)
        stored.append(own)
        most.append(np.where(own < 0, bound[:, None], own))
        others += weight * (np.maximum(member.probs[:, head], bound) if head < member.k else bound)
    by_all = np.all([own >= 0 for own in stored], axis=0)
    # Of a class that one of them does not store, not less than what the others say.
    known = weighted_mean([np.maximum(own, np.float32(0)) for own in stored], weights)
    mean = np.where(by_all, known, np.float32(-1))
    at = mean.argmax(axis=-1)[:, None]
    best = np.take_along_axis(mean, at, axis=-1)
    bounds = _weighted(most, weights)
    beaten = (bounds < best - _ROUNDING) | (classes == np.take_along_axis(classes, at, axis=-1))
    certain = beaten.all(axis=-1) & (others < best[:, 0] - _ROUNDING)
    low = known.max(axis=-1)
    high = np.maximum(bounds.max(axis=-1), others) + _ROUNDING
    return Bounds(low, np.where(certain, low, high))


def _stored_probability(topk: TopK, classes: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    """What labels (n, k) store of classes (n,) or (n, c); -1 where they store nothing."""
    own = np.full(classes.shape, -1, dtype=np.float32)
    rows = (slice(None), None) if classes.ndim > 1 else slice(None)
    for place in range(topk.k):
        probs = topk.probs[:, place][rows]
        same = (classes == topk.indices[:, place][rows]) & (probs > 0)
        np.copyto(own, probs, where=same)
    return own


def _of_candidates(topk: EnsembleTopK, with_lists: bool) -> npt.NDArray[np.float32]:
    """(n,) the largest mean of the classes that any teacher stores.

    Args:
        topk: labels (n, k) of each.
        with_lists: whether the classes of the lists are candidates, beside those that are stored.
    """
    lists = [part.prior.classes for part in topk.members if with_lists and part.prior is not None]
    # Class 0 stands for an empty place: one more candidate.
    named = [np.maximum(classes, 0) for classes in lists]
    candidates = np.concatenate([*(part.indices for part in topk.members), *named], axis=-1)
    parts = []
    for member in topk.members:
        own = _stored_probability(member, candidates)
        spread = probability_of_unseen(member, candidates)
        parts.append(np.where(own < 0, spread, own))
    return np.asarray(weighted_mean(parts, topk.weights).max(axis=-1))


def weighted_mean(
    parts: Sequence[npt.NDArray[np.float32]], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """(...) float32: n teachers' probabilities averaged by their weights (n,), rounded once."""
    return np.asarray(_weighted(parts, weights), dtype=np.float32)


def _weighted(
    parts: Sequence[npt.NDArray[Any]], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The teachers' probabilities averaged by their weights."""
    total = np.zeros(parts[0].shape)
    for weight, part in zip(weights.tolist(), parts, strict=True):
        total += weight * part.astype(np.float64)
    return total
