"""What labels say, class by class of the ground truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.labels.actions import Action
from labelstore.statistics.confidence import share_of
from labelstore.statistics.sampling import error_of_share

if TYPE_CHECKING:
    import numpy.typing as npt

    Float64Array = npt.NDArray[np.float64]

__all__ = ["ClassSums"]


class ClassSums:
    """Sums over the images of each of C classes, added block by block."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._whole: dict[str, Float64Array] = {}

    def _add(self, name: str, classes: npt.NDArray[Any], values: Any = None) -> None:
        known = classes >= 0
        weights = None if values is None else np.asarray(values, dtype=np.float64)[known]
        sums = np.bincount(classes[known], weights, self.num_classes).astype(np.float64)
        self._whole[name] = self._of(name) + sums

    def _of(self, name: str) -> Float64Array:
        return self._whole.get(name, np.zeros(self.num_classes))

    def add_confidence(
        self, targets: npt.NDArray[np.int32], plane: npt.NDArray[np.float32]
    ) -> None:
        """Images' ground truth (n,) and the confidences (n, V) of their views."""
        self._add("images", targets)
        self._add("crops", targets, np.full(len(targets), plane.shape[1]))
        self._add("confidence", targets, plane.sum(axis=1, dtype=np.float64))

    def add_actions(self, targets: npt.NDArray[np.int32], actions: npt.NDArray[np.uint8]) -> None:
        """Images' ground truth (n,) and what FerKD does with their views (n, V)."""
        self._add("decided", targets, np.full(len(targets), actions.shape[1]))
        for action in Action:
            self._add(action.name.lower(), targets, (actions == action).sum(axis=1))
        self._add("without_views", targets, (actions == Action.DISCARDED).all(axis=1))

    def add_labels(
        self,
        targets: npt.NDArray[np.int32],
        top_classes: npt.NDArray[np.int32],
        entropy: Float64Array,
        drift: Float64Array,
    ) -> None:
        """Images' ground truth (n,), largest class (-1: none) and entropy (n, V), drift (n,)."""
        self._add("labels", targets, np.full(len(targets), top_classes.shape[1]))
        right = (top_classes == targets[:, None]) & (targets[:, None] >= 0)
        self._add("right", targets, right.sum(axis=1))
        self._add("entropy", targets, entropy.sum(axis=1))
        self._add("drift", targets, drift)
        self._add("predicted", top_classes.reshape(-1))

    def rows(self, views: int) -> list[dict[str, Any]]:
        """One for each class that has images, or that is the largest class of any crop.

        ``views`` of each image are there, of which all or a part was added.
        """
        images, crops = self._of("images"), self._of("crops")
        labels, decided, predicted = self._of("labels"), self._of("decided"), self._of("predicted")
        right = self._of("right")
        rows = []
        for number in np.flatnonzero((images > 0) | (predicted > 0)).tolist():
            row: dict[str, Any] = {
                "class": number,
                "images": int(images[number]),
                "crops": int(crops[number]),
                "confidence": share_of(self._of("confidence")[number], crops[number]),
                "agreement": share_of(right[number], labels[number]),
                "agreement_error": error_of_share(
                    int(right[number]), int(labels[number]), int(images[number]) * views
                ),
                "drift": share_of(self._of("drift")[number], images[number]),
                "entropy": share_of(self._of("entropy")[number], labels[number]),
            }
            for action in Action:
                name = action.name.lower()
                row[name] = share_of(self._of(name)[number], decided[number])
            row["images_without_views"] = int(self._of("without_views")[number])
            row["predicted"] = int(predicted[number])
            rows.append(row)
        return rows
