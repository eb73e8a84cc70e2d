"""What recovered labels give to a few classes that they do not store.

As ``TopK.recover`` computes it, to the bit, without recovering what nobody asks for: most of the
time of recovering a label with a list of likely classes is that of writing down all of the list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from labelstore.labels.prior import MOST_UNSEEN, distinct_lists, list_shares, raised, spread

if TYPE_CHECKING:
    import numpy.typing as npt

    from labelstore.labels.prior import ImagePrior
    from labelstore.labels.soft_labels import SoftLabels

__all__ = ["most_of_unseen", "probability_of_unseen"]

_TABLE_BYTES = 2**21
"""Bytes of a table of all classes for the lists of some labels."""

_FEWEST_ROWS = 64
"""Labels of which a table has the lists, at least."""


class _Stored(Protocol):
    """What is looked at of a ``TopK`` (n, k)."""

    @property
    def indices(self) -> npt.NDArray[np.int32]: ...
    @property
    def probs(self) -> npt.NDArray[np.float32]: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def prior(self) -> ImagePrior | None: ...
    def recover(self) -> SoftLabels: ...
    def __getitem__(self, rows: Any) -> _Stored: ...


def probability_of_unseen(
    topk: _Stored, classes: npt.NDArray[np.integer]
) -> npt.NDArray[np.float32]:
    """What ``topk.recover()`` gives to classes.

    Args:
        topk: labels (n, k).
        classes: (n, c) ids, 0..num_classes-1.

    Returns:
        (n, c) float32; of a class that is stored it says nothing.
    """
    if topk.prior is None:
        base = np.maximum(topk.recover().base, np.float32(0))
        return np.repeat(base[:, None], classes.shape[1], axis=1)
    if not (_are_ids(classes, topk.num_classes) and _are_ids(topk.indices, topk.num_classes)):
        return _recovered(topk, classes)
    out = np.empty(classes.shape, dtype=np.float32)
    size = max(_TABLE_BYTES // (2 * topk.num_classes), _FEWEST_ROWS)
    for start in range(0, len(out), size):
        run = slice(start, start + size)
        part = topk[run]
        out[run] = _of_run(part, part.prior, classes[run])  # type: ignore[arg-type]
    return out


def most_of_unseen(topk: _Stored) -> npt.NDArray[np.float64]:
    """(n,) what a class that a label (n, k) does not store is recovered to at the most, but for
    rounding; looks at what is stored alone."""
    places = [topk.probs[:, place] for place in range(topk.probs.shape[1])]
    # Place by place: NumPy takes long over short rows.
    total = places[0].astype(np.float64)
    for probs in places[1:]:
        total += probs
    residual = np.maximum(1.0 - total, 0.0)
    listed = 0 if topk.prior is None else topk.prior.classes.shape[-1]
    outside = topk.num_classes - len(places) - listed
    if outside < 1:
        return residual
    evenly = residual / outside
    if topk.prior is None:
        return evenly
    # Where there are classes outside the list, none of it has more than a share of the least one.
    least = places[0]
    for probs in places[1:]:
        least = np.where(probs > 0, np.minimum(least, probs), least)
    limit = MOST_UNSEEN * np.where(least > 0, least, 2.0)
    return np.asarray(np.maximum(np.minimum(limit, residual), evenly))


def _are_ids(classes: npt.NDArray[np.integer], count: int) -> bool:
    return not classes.size or bool(classes.min() >= 0 and classes.max() < count)


def _recovered(topk: _Stored, classes: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    """As ``probability_of_unseen``, of the labels as they are recovered."""
    labels = topk.recover().reshape(len(classes), 1)
    return labels.probability(classes).astype(np.float32)


def _of_run(
    topk: _Stored, prior: ImagePrior, classes: npt.NDArray[np.integer]
) -> npt.NDArray[np.float32]:
    """As ``probability_of_unseen``, by a table of where each list has each class."""
    lists, of_row = distinct_lists(prior)
    listed, shares, rest = list_shares(lists, topk.num_classes)
    row, place = np.nonzero(listed)
    places = np.full((len(listed), topk.num_classes), -1, dtype=np.int16)
    places[row, lists.classes[row, place]] = place
    if (places[row, lists.classes[row, place]] != place).any():
        # No store has such a list: it names a class twice.
        return _recovered(topk, classes)
    weights, outside = raised(listed, shares, rest, lists.power)
    weights, outside = weights[of_row], outside[of_row]
    stored, rows = topk.probs > 0, np.arange(len(of_row))[:, None]
    own = places[of_row[:, None], topk.indices]
    is_listed = stored & (own >= 0)
    weights[np.nonzero(is_listed)[0], own[is_listed]] = 0.0
    strangers = (stored & ~is_listed).sum(axis=-1)
    others = np.maximum(topk.num_classes - listed.sum(axis=-1)[of_row] - strangers, 0)
    probs = topk.probs.astype(np.float64)
    total = probs.sum(axis=-1, keepdims=True)
    probs /= np.maximum(total, 1.0)
    residual = np.maximum(1.0 - total, 0.0)
    least = np.where(stored, probs, np.inf).min(axis=-1, keepdims=True)
    limit = np.where(stored.any(axis=-1, keepdims=True), MOST_UNSEEN * least, 1.0)
    evenly, scale = _even(weights, outside * others, residual, limit)
    where = places[of_row[:, None], classes]
    probs_of_classes = scale[:, None] * weights[rows, where]
    if not evenly.all():
        capped = np.flatnonzero(~evenly)
        rest_of = (outside * others)[capped, None]
        some, scale[capped] = spread(weights[capped], rest_of, residual[capped], limit[capped])
        probs_of_classes[capped] = np.take_along_axis(some, where[capped].astype(np.int64), axis=1)
    base = np.where(others > 0, scale * outside, 0.0)[:, None]
    extra = np.where(where >= 0, probs_of_classes - base, 0.0).astype(np.float32)
    added = base.astype(np.float32) + extra.astype(np.float64)
    return np.asarray(np.maximum(added, 0.0), dtype=np.float32)


def _even(
    weights: npt.NDArray[np.float64],
    outside: npt.NDArray[np.float64],
    mass: npt.NDArray[np.float64],
    limit: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Which of n labels spread their residual in one round, as nearly all do, and the factor of
    their weights. The arguments are ``prior.spread``'s, ``outside`` (n,)."""
    total = weights.sum(axis=-1) + outside
    some = total > 0
    scale = np.where(some, mass[:, 0] / np.where(some, total, 1.0), 0.0)
    # Rounding keeps order: where the largest is within the limit, all are.
    return scale * weights.max(axis=-1) <= limit[:, 0], scale
