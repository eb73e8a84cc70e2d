"""FKD: a file an image, ``torch.save`` of its crops' relative boxes, flips and labels.

``[coords, flip, labels]`` of V crops: coords (V, 4) float32 or float16, shares of the photo's
height and width (top, left, height, width); flip (V,) bool; labels (V,) int64 of the type "hard",
(V, 2) of class id and probability of "smoothing", (V, 2, k) of class ids and probabilities of the
marginal types. Class ids are floats of the labels' type. The files are called ``.tar`` and are
none; their paths are the photo's last three folders and its name up to the first dot.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import FormatError, LabelError, UsageError
from labelstore.format.label_checks import are_labels
from labelstore.peers.image_folder import (
    PhotoTable,
    boxes_of_shares,
    check_inside,
    photo_table,
)
from labelstore.peers.label_files import named_files
from labelstore.peers.labelled_photos import matched_photos
from labelstore.peers.peer_labels import PeerLabels, files_digest, require_integers
from labelstore.peers.pickles.safe_pickle import MEND, TorchFiles
from labelstore.storage.untrusted import parsed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.labels.top_k import LabelType
    from labelstore.peers.peer_labels import PeerOptions, Values

__all__ = ["FKDReader"]

SUFFIX = ".tar"

_LABEL_TYPES: dict[int, LabelType] = {1: "hard", 2: "smoothing", 3: "top-k"}
"""By the axes of the array of labels."""

_MOST_SHARE = 2
"""Of a photo's side, what a box's numbers are at most: they are shares, or no boxes."""

_OVERSHOOT = 2
"""Pixels by which a box may leave its photo for the rounding of half precision."""


class FKDReader:
    """Reads a folder of FKD's label files, those of its subfolders included."""

    values: Values = "top-k"
    law = None
    class_names = None
    temperature: float | None = None
    targets: npt.NDArray[np.int32] | None = None

    def __init__(self, path: Path, options: PeerOptions) -> None:
        names = named_files(path, SUFFIX, "FKD")
        self._path, self._names, self._files = path, names, TorchFiles()
        self._unneeded: tuple[int, ...] = ()
        self._first: tuple[Any, ...] | None = None
        self._photos, self._places = options.photos, None
        self.num_classes = options.num_classes
        self.explicit = options.boxes
        notes = ["FKD's files name no teacher and no temperature, and no image size."]
        if options.boxes and options.photos is None:
            raise UsageError(
                f"the boxes in {path} are shares of each photo's sides, which the files do not "
                "tell: give the photos, or say that views are not to be replayed.",
                arguments=("photos", "boxes"),
            )
        stems = [name.removesuffix(SUFFIX) for name in names]
        self.keys = stems
        if options.photos is not None:
            self._places = matched_photos(stems, options.photos, path, first_dot=True)
            self.keys = [options.photos.keys[place] for place in self._places]
            unlabelled = len(options.photos) - len(names)
            if unlabelled:
                notes.append(f"{unlabelled} of {len(options.photos)} photos have no label file.")
        coords, flips, labels = self._parts(0)
        self.num_views = len(coords)
        self._first = _kind_of(coords, flips, labels)
        # Where crops are left out nobody looks at their numbers: checksums find what was damaged.
        self._unneeded = () if self.explicit else (0, 1)
        self._half = _is_half(coords.dtype)
        if self._half and self.explicit:
            notes.append(
                "Boxes are of half precision: they are those that FKD's own reader takes, which "
                "on photos of more than some 2,000 pixels are not those that were labelled."
            )
        self._axes, self._kinds = labels.ndim, (coords.dtype, labels.dtype)
        self._half_ids = _is_half(labels.dtype)
        self.label_type = _LABEL_TYPES[self._axes]
        self.k: int | None = labels.shape[2] if self._axes == 3 else 1
        if self.label_type == "hard":
            notes.append("Hard labels hold no probability: each is stored as 1.")
        self.notes = tuple(notes)
        self.extra = {"FKD labels": f"{self.label_type} {labels.dtype}"}
        files = (os.path.join(path, name) for name in names)
        with parsed(path, MEND):
            self.digest = files_digest(path, files)

    def images(self, numbers: Sequence[int]) -> PeerLabels:
        """The labels of some images; see ``PeerReader``."""
        coords, flips, labels = self._together(numbers)
        indices, probs = self._labels(labels, numbers)
        if self._photos is None or self._places is None:
            return PeerLabels(indices, probs)
        facts = photo_table(self._photos, [self._places[number] for number in numbers])
        sizes: dict[str, Any] = {
            "widths": facts.widths,
            "heights": facts.heights,
            "digests": facts.digests,
        }
        if not self.explicit:
            return PeerLabels(indices, probs, **sizes)
        boxes = boxes_of_shares(coords, facts.widths, facts.heights)
        if self._half:
            boxes = _clipped(boxes, facts)
        keys = [self.keys[number] for number in numbers]
        try:
            check_inside(boxes, facts, keys, self._path)
        except LabelError:
            # Which file it is.
            for row, number in enumerate(numbers):
                part = slice(row, row + 1)
                of_one = PhotoTable(facts.widths[part], facts.heights[part], facts.digests[part])
                check_inside(boxes[part], of_one, keys[part], self._where(number))
            raise
        return PeerLabels(indices, probs, boxes=boxes, flips=flips, **sizes)

    def _together(
        self, numbers: Sequence[int]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_], npt.NDArray[Any]]:
        """(n, V, 4) coords, (n, V) flips and (..., n, V) labels of some files.

        Coords and labels lie by place in memory, where what is done to them takes a fraction.
        Where crops are left out coords and flips are of no files.
        """
        count, views = len(numbers), self.num_views
        axes = {1: (), 2: (2,), 3: (2, self.k or 1)}[self._axes]
        cropped = count if self.explicit else 0
        of_coords, of_labels = (kind.newbyteorder("=") for kind in self._kinds)
        coords = np.empty((4, cropped, views), dtype=of_coords)
        flips = np.empty((cropped, views), dtype=bool)
        labels = np.empty((*axes, count, views), dtype=of_labels)
        order = (*range(1, self._axes), 0)
        for row, number in enumerate(numbers):
            coords_at, flips_at, labels_at = self._parts(number)
            if cropped:
                coords[:, row], flips[row] = coords_at.T, flips_at
            labels[..., row, :] = labels_at.transpose(order)
        coords, labels = _single(coords), _single(labels)
        # Not so of NaN.
        if cropped and not (coords.min() >= -_MOST_SHARE and coords.max() <= _MOST_SHARE):
            for row, number in enumerate(numbers):
                part = coords[:, row]
                if not (np.abs(part) <= _MOST_SHARE).all():
                    raise LabelError(
                        f"{self._where(number)} has boxes from {part.min():g} to {part.max():g}, "
                        "expected shares of a photo's sides, 0 to 1: get the file anew."
                    )
        return np.moveaxis(coords, 0, -1), flips, labels

    def _where(self, number: int) -> str:
        return f"{self._path}/{self._names[number]}"

    def _parts(self, number: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
        """(V, 4) coords, (V,) flips and labels of one file, of the shapes that they must have."""
        where = self._where(number)
        state = self._files.load(where, self._unneeded)
        if not (isinstance(state, list) and [type(part) for part in state] == [np.ndarray] * 3):
            raise FormatError(
                f"{where} holds no list of three arrays (boxes, flips, labels), expected FKD's "
                "label file: take it out of the folder, or name the format that it is of."
            )
        coords, flips, labels = state
        if self._first == _kind_of(coords, flips, labels):
            return coords, flips, labels
        views = len(coords) if coords.ndim else 0
        fits = (
            views > 0
            and coords.shape == (views, 4)
            and coords.dtype.kind == "f"
            and flips.shape == (views,)
            and flips.dtype == np.bool_
            and labels.shape[:1] == (views,)
            and labels.dtype.kind in ("if" if labels.ndim == 1 else "f")
            and labels.shape[1:2] in ((), (2,))
            and 1 <= labels.ndim <= 3
            and labels.size > 0
        )
        if not fits:
            raise FormatError(
                f"{where} holds boxes {coords.dtype} {coords.shape}, flips {flips.dtype} "
                f"{flips.shape} and labels {labels.dtype} {labels.shape}, expected (views, 4) "
                "floats, (views,) booleans, and (views,) integers or (views, 2) or (views, 2, k) "
                "floats: get the file anew."
            )
        if number:
            k = labels.shape[2] if labels.ndim == 3 else 1
            if (views, labels.ndim, k) != (self.num_views, self._axes, self.k):
                raise FormatError(
                    f"{where} has {views} views and labels of {labels.shape[1:]}, expected "
                    f"{self.num_views} views of type {self.label_type} with {self.k} classes as "
                    f"{self._where(0)} has: convert files of one run alone."
                )
            if (coords.dtype, labels.dtype) != self._kinds:
                raise FormatError(
                    f"{where} has boxes {coords.dtype} and labels {labels.dtype}, expected "
                    f"{self._kinds[0]} and {self._kinds[1]} as {self._where(0)} has: convert files "
                    "of one run alone."
                )
        return coords, flips, labels

    def _labels(
        self, labels: npt.NDArray[Any], numbers: Sequence[int]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[Any]]:
        """(n, V, k) class ids and probabilities of (..., n, V) labels, by place in memory."""
        if self._axes == 1:
            stacked, probs = labels[None], np.ones((1, *labels.shape), dtype=np.float32)
        elif self._axes == 2:
            stacked, probs = labels[:1], labels[1:]
        else:
            stacked, probs = labels
        try:
            ids = require_integers(stacked, self.num_classes, self._path, half=self._half_ids)
        except LabelError:
            # Which file it is.
            for row, number in enumerate(numbers):
                part, where = stacked[:, row], self._where(number)
                require_integers(part, self.num_classes, where, half=self._half_ids)
            raise
        indices = np.moveaxis(ids, 0, -1)
        values = np.moveaxis(probs.astype(np.float32, copy=False), 0, -1)
        most = self.num_classes or int(ids.max()) + 1
        if not are_labels(indices, values, most):
            for row, number in enumerate(numbers):
                if not are_labels(indices[row], values[row], most):
                    raise LabelError(
                        f"{self._where(number)} has labels that are no falling probabilities of "
                        "different classes with a sum of at most 1: get the file anew."
                    )
        return indices, values


def _kind_of(*arrays: npt.NDArray[Any]) -> tuple[Any, ...]:
    """Shapes and types of arrays: those of the first file need no other look in the next one."""
    return tuple([(array.shape, array.dtype) for array in arrays])


def _is_half(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" and dtype.itemsize == 2


def _single(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Numbers as they are worked on: halves in single precision, for NumPy has no fast ones."""
    # Looking them up takes a fraction of converting them.
    return _of_halves().take(values.view(np.uint16)) if _is_half(values.dtype) else values


@functools.cache
def _of_halves() -> npt.NDArray[np.float32]:
    """(65536,) the number that each half is, by its bits."""
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def _clipped(boxes: npt.NDArray[np.int32], facts: PhotoTable) -> npt.NDArray[np.int32]:
    """(n, V, 4) boxes that end where the photo does, if rounding let them leave it by a little.

    FKD's reader has Pillow fill what lies outside with black.
    """
    top, left, height, width = np.moveaxis(boxes, -1, 0)
    over_both = (top + height - facts.heights[:, None], left + width - facts.widths[:, None])
    if max(over.max() for over in over_both) <= 0:
        return boxes
    clipped = [top, left]
    for over, side in zip(over_both, (height, width), strict=True):
        clipped.append(side - np.where((over > 0) & (over <= _OVERSHOOT), over, 0))
    return np.moveaxis(np.stack(clipped), 0, -1)
