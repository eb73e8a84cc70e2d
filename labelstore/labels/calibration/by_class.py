"""Thresholds that fit each ground-truth class, from its own views alone.

FreeMatch (Wang et al., ICLR 2023, equation 8) lets a threshold follow how confident a network is of
each class: one that is always unsure of a class would else have no views of it left, and of an easy
class lose most. Here a class is that of the ground truth, and each loses the same share of views.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labelstore.labels.calibration.thresholds import ClassThresholds
from labelstore.labels.fitting import fit_thresholds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from labelstore.labels.fitting import MemberConfidences, Shares

    Float32Array = npt.NDArray[np.float32]
    LabelledPlanes = Callable[[], Iterator[tuple[npt.NDArray[np.int32], Float32Array]]]

__all__ = ["FEWEST_VIEWS", "fit_classes", "fit_members_by_class"]

FEWEST_VIEWS = 1_000
"""A class with fewer views has no thresholds of its own: at the paper's shares three of so many are
too easy and nine too hard, and of fewer the thresholds would be chance."""

_VALUES = 2**25
"""Confidences that are held at a time, of some of the classes: 128 MiB."""


def fit_members_by_class(
    store: MemberConfidences, shares: Shares, num_classes: int
) -> list[ClassThresholds]:
    """``fit_classes`` for each teacher of a store or an ensemble that is open.

    Raises:
        StoreError: a label cannot be read.
    """

    def planes_of(number: int) -> LabelledPlanes:
        return lambda: store.member_confidence(number)

    return [
        fit_classes(planes_of(number), shares, num_classes, str(member.path))
        for number, member in enumerate(store.members)
    ]


def fit_classes(
    planes: LabelledPlanes, shares: Shares, num_classes: int, source: str
) -> ClassThresholds:
    """Thresholds for every class that has at least ``FEWEST_VIEWS`` views.

    Each is what ``fit_thresholds`` gives of the views of the images of that class: exact, and the
    same for the same views in any order. What is held of them is bounded; the planes are gone
    through once, and once more for every 2**25 views.

    Args:
        planes: gives the same whenever it is called: ground truth (n,), -1 where unknown, and
            confidences (n, V) float32 in [0, 1] of the images' views, NaN for no view.
        shares: what to take of each class.
        num_classes: how many classes there are.
        source: whose they are, for messages.

    Raises:
        LabelError: a value is no probability.
    """
    views = np.zeros(num_classes, dtype=np.int64)
    for targets, plane in planes():
        known = targets >= 0
        counts = np.count_nonzero(~np.isnan(plane[known]), axis=1)
        np.add.at(views, targets[known], counts)
    own = np.flatnonzero(views >= FEWEST_VIEWS)
    fits = {}
    for classes in _runs(own, views[own]):
        parts = _collected(planes, classes, num_classes)
        for number in classes.tolist():
            values = parts.pop(number)
            fits[number] = fit_thresholds(
                lambda values=values: iter(values),  # type: ignore[misc]
                shares,
                f"class {number} of {source}",
            )
    return ClassThresholds(
        num_classes,
        tuple(fits),
        tuple(fit.low for fit in fits.values()),
        tuple(fit.middle for fit in fits.values()),
        tuple(fit.top for fit in fits.values()),
    )


def _runs(
    classes: npt.NDArray[np.int64], views: npt.NDArray[np.int64]
) -> list[npt.NDArray[np.int64]]:
    """Classes in runs of about ``_VALUES`` views."""
    if not len(classes):
        return []
    run = (np.cumsum(views) - views) // _VALUES
    return np.split(classes, np.flatnonzero(np.diff(run)) + 1)


def _collected(
    planes: LabelledPlanes, classes: npt.NDArray[np.int64], num_classes: int
) -> dict[int, list[Float32Array]]:
    """The confidences of each of some classes, in parts."""
    # The last place is that of the unknown ground truth, -1.
    is_collected = np.zeros(num_classes + 1, dtype=bool)
    is_collected[classes] = True
    parts: dict[int, list[Float32Array]] = {number: [] for number in classes.tolist()}
    for targets, plane in planes():
        rows = np.flatnonzero(is_collected[targets])
        rows = rows[np.argsort(targets[rows], kind="stable")]
        starts = np.flatnonzero(np.diff(targets[rows], prepend=-1))
        for number, of_class in zip(
            targets[rows[starts]].tolist(), np.split(rows, starts[1:]), strict=False
        ):
            parts[number].append(plane[of_class])
    return parts
