"""Whether arrays are labels: what every writer's labels are asked before they are encoded."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import LabelError
from labelstore.format.codecs.base import by_place

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["SUM_TOLERANCE", "are_labels", "require_ids", "require_labels"]

SUM_TOLERANCE = 2e-3
"""By how much a label's sum may exceed 1: those of half precision do, by 2**-10 at the worst."""

_MOST_PAIRED = 16
"""Classes of a label that are compared in pairs; more are sorted."""


def are_labels(indices: npt.NDArray[Any], probs: npt.NDArray[Any], num_classes: int) -> bool:
    """Whether all labels have class ids in range and different, and probabilities that are those.

    They fall along a row from at most 1 to at least 0, and have a sum of at most 1, to within
    ``SUM_TOLERANCE``. What places of probability 0 name says nothing, and may be there twice.

    Args:
        indices: (..., k) integers. probs: (..., k) floats. Fastest where the places lie side by
            side in memory, as ``by_place`` puts them.
        num_classes: class ids are below it.
    """
    ids, values = by_place(indices), by_place(probs)
    if not ids.size:
        return True
    # Not so of NaN, here and below.
    if not (values[-1].min() >= 0 and values[0].max() <= 1 + SUM_TOLERANCE):
        return False
    if ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= num_classes:
        return False
    total = values[0].astype(np.float64)
    for before, here in itertools.pairwise(values):
        if not (here <= before).all():
            return False
        total += here
    return bool(total.max() <= 1 + SUM_TOLERANCE) and _differ(ids, values)


def _differ(ids: npt.NDArray[Any], values: npt.NDArray[Any]) -> bool:
    """Whether no label names a class twice: (k, ...) class ids and falling probabilities."""
    if len(ids) > _MOST_PAIRED:
        nothing = -1 - np.arange(len(ids)).reshape(-1, *[1] * (ids.ndim - 1))
        ordered = np.sort(np.where(values > 0, ids, nothing), axis=0)
        return not (ordered[1:] == ordered[:-1]).any()
    for place in range(1, len(ids)):
        for before in ids[:place]:
            same = before == ids[place]
            if same.any() and (values[place][same] > 0).any():
                return False
    return True


def require_ids(indices: npt.NDArray[Any], num_classes: int, place: str = "") -> None:
    """LabelError unless class ids, of any shape but at least one, are integers in range.

    Args:
        place: where they are, for the message, as " in block 3".
    """
    if indices.dtype.kind not in "iu":
        raise LabelError(f"class ids have type {indices.dtype}, expected integers.")
    if int(indices.min()) < 0 or int(indices.max()) >= num_classes:
        raise LabelError(
            f"class ids run from {indices.min()} to {indices.max()}{place}, expected 0 to "
            f"{num_classes - 1}: give num_classes of the teacher that made them."
        )


def require_labels(
    indices: npt.NDArray[Any], probs: npt.NDArray[Any], num_classes: int, block: int
) -> None:
    """Say what is wrong with labels of a block that ``are_labels`` has found to be none.

    Args:
        indices, probs: (n, V, k). num_classes: as of ``are_labels``. block: for the message.

    Raises:
        LabelError: they are no labels.
    """
    if not indices.size:
        return
    require_ids(indices, num_classes, f" in block {block}")
    probs = probs.astype(np.float64)
    if not np.isfinite(probs).all() or probs.min() < 0 or probs.max() > 1 + SUM_TOLERANCE:
        raise LabelError(
            f"probabilities run from {probs.min()} to {probs.max()} in block {block}, expected 0 "
            "to 1: give softmax outputs, not logits."
        )
    if (np.diff(probs, axis=-1) > 0).any():
        raise LabelError(
            f"probabilities rise along a row in block {block}: sort each label's classes, largest "
            "probability first."
        )
    if probs.sum(axis=-1).max() > 1 + SUM_TOLERANCE:
        raise LabelError(
            f"a label of block {block} sums to {probs.sum(axis=-1).max():.4f}, expected at most "
            "1: give probabilities of one softmax over all classes."
        )
    # Places of probability 0 hold no class: their ids say nothing, and count as different ones.
    nothing = -1 - np.arange(indices.shape[-1])
    ordered = np.sort(np.where(probs > 0, indices, nothing), axis=-1)
    if (ordered[..., 1:] == ordered[..., :-1]).any():
        raise LabelError(f"a label of block {block} names a class twice: class ids must differ.")
