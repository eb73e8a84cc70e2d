"""What a few images' labels say: numbers of each image and view, ready to be summed up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from labelstore.statistics.distributions import drift_of, entropy_of, mean_labels
from labelstore.statistics.image_labels import ImageLabels, of_images

if TYPE_CHECKING:
    import numpy.typing as npt

    from labelstore.labels.ferkd import FerKD
    from labelstore.labels.top_k import LabelType, TopK

__all__ = ["AGREEMENT_CLASSES", "LabelFacts", "facts_of_labels"]

AGREEMENT_CLASSES = 5
"""Classes of a label among which the ground truth counts as hit, at most."""


@dataclass(frozen=True)
class LabelFacts:
    """What the labels of V views of each of n images say."""

    confidence: npt.NDArray[np.float32]
    """(n, V) the largest probability of each."""
    rule_looks_at: npt.NDArray[np.float32] | None
    """(n, V) what a rule looks at that does not look at that one."""
    top_classes: npt.NDArray[np.int32]
    """(n, V) the largest class of each, -1 where there is none."""
    right: npt.NDArray[np.bool_]
    """(known images, V) whether the largest class is the ground truth."""
    hits: int
    """Labels of these that have it among their first ``AGREEMENT_CLASSES``."""
    residual: npt.NDArray[np.float64]
    """(k,) sums of the mass outside the 1, 2, ... largest classes."""
    entropy: npt.NDArray[np.float64]
    """(n, V) nats."""
    drift: npt.NDArray[np.float64]
    """(n,) trace of the covariance over the views."""
    labels: ImageLabels


def facts_of_labels(
    images: npt.NDArray[np.int64],
    topk: TopK,
    targets: npt.NDArray[np.int32],
    rule: FerKD,
    label_type: LabelType,
) -> LabelFacts:
    """What labels say.

    Args:
        images: (n,) positions. topk: (n, V) labels of some of their views.
        targets: (n,) ground truth, -1 where it is unknown.
        rule: whose confidence is told where it is not the largest probability.
        label_type: what the labels are recovered to.
    """
    labels = topk.as_type(label_type)
    means = mean_labels(labels)
    known = targets >= 0
    part = topk[known]
    # An empty place holds class 0 without probability, which it does not name.
    same = (part.indices == targets[known, None, None]) & (part.probs > 0)
    by_target = rule.confidence == "target"
    # A label without any stored mass names no class.
    top_classes = np.where(topk.confidence > 0, topk.indices[..., 0], -1)
    mass = np.cumsum(topk.probs, axis=-1, dtype=np.float64)
    return LabelFacts(
        confidence=np.ascontiguousarray(topk.confidence),
        rule_looks_at=rule.confidence_of(None, topk, targets[:, None]) if by_target else None,
        top_classes=top_classes,
        right=np.ascontiguousarray(same[..., 0]),
        hits=int(same[..., :AGREEMENT_CLASSES].any(axis=-1).sum()),
        residual=np.maximum(1.0 - mass, 0.0).sum(axis=(0, 1)),
        entropy=entropy_of(labels),
        drift=drift_of(labels, means),
        labels=of_images(images, targets, means, top_classes),
    )
