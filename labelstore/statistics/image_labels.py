"""What is kept of every image's mean label: few classes of it, for all that is told of images."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Float64Array = npt.NDArray[np.float64]
    Int64Array = npt.NDArray[np.int64]

__all__ = ["ImageLabels", "joined", "of_images"]

KEPT = 5
"""Classes of an image's mean label that are kept."""


@dataclass(frozen=True)
class ImageLabels:
    """Mean labels of N images over their views, the likeliest m classes of each alone."""

    images: Int64Array
    """(N,) int64: their numbers, rising."""
    targets: npt.NDArray[np.int32]
    """(N,) int32 ground truth, -1 where unknown."""
    classes: npt.NDArray[np.int32]
    """(N, m) int32, likeliest first; m is 5, or the number of classes where that is smaller."""
    probs: npt.NDArray[np.float32]
    """(N, m) float32: their mean probabilities."""
    view_shares: npt.NDArray[np.float32]
    """(N, m) float32: the share of the image's views whose largest class each is."""
    target_probs: npt.NDArray[np.float32]
    """(N,) float32: the ground truth's mean probability, NaN where unknown."""


def of_images(
    images: Int64Array,
    targets: npt.NDArray[np.int32],
    means: Float64Array,
    top_classes: npt.NDArray[np.int32],
) -> ImageLabels:
    """The likeliest classes of some images.

    Args:
        images: (n,) their numbers; targets: (n,) ground truth, -1 where unknown.
        means: (n, C) the mean of each image's labels.
        top_classes: (n, V) the largest class of each of its views.
    """
    count, num_classes = means.shape
    width = min(KEPT, num_classes)
    rows = np.arange(count)[:, None]
    part = np.broadcast_to(np.arange(num_classes), (count, num_classes))
    if width < num_classes:
        part = np.argpartition(-means, width - 1, axis=1)[:, :width]
    part = np.sort(part, axis=1)
    # Of equals the smaller class first.
    order = np.argsort(-means[rows, part], axis=1, kind="stable")
    classes = part[rows, order]
    own = means[rows[:, 0], np.maximum(targets, 0)]
    return ImageLabels(
        images=images.astype(np.int64),
        targets=targets.astype(np.int32),
        classes=classes.astype(np.int32),
        probs=means[rows, classes].astype(np.float32),
        view_shares=_shares_of(top_classes, classes),
        target_probs=np.where(targets >= 0, own, np.nan).astype(np.float32),
    )


def joined(parts: Sequence[ImageLabels], num_classes: int) -> ImageLabels:
    """Those of several runs of images, in their order; of none at all, empty."""
    width = min(KEPT, num_classes)
    if not parts:
        none = np.empty(0, np.int64), np.empty(0, np.int32), np.empty((0, width), np.int32)
        of_none = np.empty((0, width), np.float32)
        return ImageLabels(*none, of_none, of_none, np.empty(0, np.float32))
    columns: dict[str, Any] = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(ImageLabels)
    }
    return ImageLabels(**columns)


def _shares_of(
    top_classes: npt.NDArray[np.int32], classes: npt.NDArray[Any]
) -> npt.NDArray[np.float32]:
    """(n, m) float32: the share of each row's V classes that is each of m others."""
    shares = np.empty(classes.shape, dtype=np.float32)
    for place in range(classes.shape[1]):
        shares[:, place] = (top_classes == classes[:, place : place + 1]).mean(axis=1)
    return shares
