"""FerKD's rule over labels whose confidence is not stored, by bounds of it where these decide.

A rule has to know under which of its parts a confidence falls, not the confidence. What is stored
says for most views between which two numbers it lies, and for most of these no threshold is
between. The others are computed, so that all fall where the exact confidences do. A curriculum
sorts by confidences and needs them all: this is not for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.labels.confidence import bounds_of_class, bounds_of_first, bounds_of_heads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from labelstore.labels.confidence import Bounds
    from labelstore.labels.ensemble import EnsembleTopK
    from labelstore.labels.ferkd import FerKD
    from labelstore.labels.top_k import TopK

    Int64Array = npt.NDArray[np.int64]
    FindBounds = Callable[[Any, Int64Array], Bounds]

__all__ = ["deciding_confidence"]


def deciding_confidence(
    rule: FerKD, topk: TopK | EnsembleTopK, truths: npt.NDArray[np.integer]
) -> npt.NDArray[np.float32]:
    """Numbers that fall under the same parts of a rule as the confidences of labels.

    Args:
        rule: the rule.
        topk: labels (...) of a teacher, or of several, of which the rule is for the mean.
        truths: ground-truth class ids, -1 where unknown; they broadcast to (...).

    Returns:
        (...) float32: ``rule.confidence_of``, or a lower bound of it that no threshold divides
        from it.

    Raises:
        LabelError: as ``FerKD.confidence_of``.
    """
    shape = topk.members[0].probs.shape[:-1]
    of_truth = rule.confidence == "target"
    if (of_truth and (truths < 0).any()) or (not of_truth and len(topk.members) == 1):
        # It says what is missing, or has what is stored.
        return rule.confidence_of(None, topk, truths)
    topk, targets = topk.reshape(-1), np.broadcast_to(truths, shape).reshape(-1)
    if of_truth:
        ways: list[FindBounds] = [bounds_of_class]
    else:
        ways = [
            lambda labels, _: bounds_of_first(labels),
            lambda labels, _: bounds_of_heads(labels),
        ]
    return _narrowed(rule, topk, targets, ways).reshape(shape)


def _narrowed(
    rule: FerKD, topk: TopK | EnsembleTopK, targets: Int64Array, ways: Sequence[FindBounds]
) -> npt.NDArray[np.float32]:
    """As ``deciding_confidence``, of labels (n, k), by ways to find bounds, the quickest first."""
    out = np.empty(len(targets), dtype=np.float32)
    left = np.arange(len(targets))
    for find in ways:
        bounds = find(topk, targets)
        out[left] = bounds.low
        divided = np.flatnonzero(_divided(rule, bounds, targets))
        if not divided.size:
            return out
        left, topk, targets = left[divided], topk[divided], targets[divided]
    out[left] = rule.confidence_of(None, topk, targets)
    return out


def _divided(rule: FerKD, bounds: Bounds, targets: Int64Array) -> npt.NDArray[np.bool_]:
    """(n,) whether a threshold lies between the bounds (n,): what is at it falls below it."""
    out = np.zeros(len(targets), dtype=bool)
    for edge in rule.edges(targets):
        out |= (bounds.low <= edge) & (bounds.high > edge)
    return out
