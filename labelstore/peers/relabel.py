"""ReLabel: a map of labels for each photo, of which any crop's label is read by RoIAlign.

A file is one tensor (2, K, S, S), at each of S x S places of the photo the logits of its K
likeliest classes and their ids, as floats; other classes count as logit 0. The label of a crop is
the softmax of the logits' mean over it, as torchvision's ``roi_align(..., output_size=(1, 1))``
takes it. The project hands it (top, left, bottom, right) where (left, top, right, bottom) belongs,
so that a map's last axis runs down the photo. That is done here, too: students were trained so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import FormatError, LabelError, UsageError
from labelstore.peers.image_folder import photo_table
from labelstore.peers.label_files import named_files
from labelstore.peers.labelled_photos import matched_photos
from labelstore.peers.peer_labels import PeerLabels, files_digest, require_integers
from labelstore.peers.pickles.safe_pickle import MEND, load_torch
from labelstore.storage.untrusted import parsed
from labelstore.views.philox import hash_keys

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.labels.top_k import LabelType
    from labelstore.peers.peer_labels import PeerOptions, Values

__all__ = ["RelabelReader", "pooling_weights"]

SUFFIX = ".pt"

_MOST_PLACES = 64
"""Along a side of a map, at most: published ones have 15."""


class RelabelReader:
    """Reads ReLabel's folder of label maps; see ``PeerReader``.

    The crops are labelstore's own: view number v of a photo is the very one that ``generate`` would
    label, since a map has a label for any.
    """

    class_names = None
    values: Values = "logits"
    k = None
    label_type: LabelType = "top-k"
    temperature = None
    targets = None
    explicit = False

    def __init__(self, path: Path, options: PeerOptions) -> None:
        names = named_files(path, SUFFIX, "ReLabel")
        if options.photos is None or options.views is None:
            missing = "photos" if options.photos is None else "the number of views"
            raise UsageError(
                f"the maps in {path} have a label for any crop of a photo, and which crops a photo "
                f"of which size has follows from its views: give {missing}.",
                arguments=("photos",) if options.photos is None else ("views",),
            )
        if options.law.stages:
            stages = " ".join(map(str, options.law.stages))
            raise UsageError(
                f"the maps in {path} have labels of crops of the photos as they are, and a store's "
                f"augmentations ({stages}) are those that the teacher saw: leave them out; a "
                "student may augment its crops by its own transform.",
                arguments=("augment",),
            )
        self._path, self._names, self._photos = path, names, options.photos
        stems = [name.removesuffix(SUFFIX) for name in names]
        self._places = matched_photos(stems, options.photos, path, first_dot=True)
        self.keys = [options.photos.keys[place] for place in self._places]
        self._hashes = hash_keys(self.keys)
        self.num_views = options.views
        self.law = options.law if options.boxes else None
        self._crops = options.law
        self.num_classes = options.num_classes
        self._shape: tuple[int, ...] | None = None
        self._shape = self._map(0).shape
        with parsed(path, MEND):
            self.digest = files_digest(path, (path / name for name in names))
        notes = ["Labels are those of the crops of labelstore's own view law, read from the maps."]
        if len(options.photos) > len(names):
            unlabelled = len(options.photos) - len(names)
            notes.append(f"{unlabelled} of {len(options.photos)} photos have no label map.")
        self.notes = tuple(notes)
        self.extra = {"maps": " x ".join(map(str, self._shape[1:]))}

    def images(self, numbers: Sequence[int]) -> PeerLabels:
        """As ``PeerReader.images``."""
        facts = photo_table(self._photos, [self._places[number] for number in numbers])
        boxes = self._crops(
            self._hashes[np.asarray(numbers)][:, None],
            np.arange(self.num_views)[None, :],
            facts.widths[:, None],
            facts.heights[:, None],
        ).box
        classes = self.num_classes or 1
        logits = np.zeros((len(numbers), self.num_views, classes))
        for row, number in enumerate(numbers):
            scores = self._map(number)
            ids = require_integers(scores[1], self.num_classes, self._where(number))
            self._check(number, scores[0], ids)
            weights = pooling_weights(
                boxes[row], int(facts.widths[row]), int(facts.heights[row]), scores.shape[-1]
            )
            # Few classes occur in a map: a table of the places and those.
            present, columns = np.unique(ids, return_inverse=True)
            table = np.zeros((ids[0].size, present.size))
            places = np.broadcast_to(np.arange(ids[0].size), (len(ids), ids[0].size))
            table[places, columns.reshape(len(ids), -1)] = scores[0].reshape(len(ids), -1)
            logits[row][:, present] = weights @ table
        return PeerLabels(dense=logits, **facts._asdict())

    def _where(self, number: int) -> Path:
        return self._path / self._names[number]

    def _map(self, number: int) -> npt.NDArray[Any]:
        """(2, K, S, S) floats of one file."""
        where = self._where(number)
        scores = load_torch(where)
        if not isinstance(scores, np.ndarray) or scores.dtype.kind != "f":
            raise FormatError(
                f"{where} holds no tensor of floats, expected a label map of ReLabel's: take it "
                "out of the folder, or name the format that it is of."
            )
        fits = scores.ndim == 4 and scores.shape[0] == 2 and scores.shape[1] >= 1
        if not fits or not 1 <= scores.shape[2] <= _MOST_PLACES:
            raise FormatError(
                f"{where} holds a tensor {scores.shape}, expected (2, classes, side, side): {MEND}."
            )
        _, k, side, _ = scores.shape
        expected = (2, k, side, side) if self._shape is None else self._shape
        if scores.shape != expected:
            raise FormatError(
                f"{where} holds a map {scores.shape}, expected {expected}: maps of two kinds lie "
                "in one folder, or it is damaged; convert files of one kind alone."
            )
        return scores

    def _check(
        self, number: int, scores: npt.NDArray[np.floating], ids: npt.NDArray[np.int32]
    ) -> None:
        """Raise LabelError where a map's values are no logits of different classes."""
        if not np.isfinite(scores).all():
            raise LabelError(
                f"{self._where(number)} has a logit that is NaN or infinite, expected finite ones: "
                f"it is damaged; {MEND}."
            )
        ordered = np.sort(ids, axis=0)
        if (ordered[1:] == ordered[:-1]).any():
            raise LabelError(
                f"{self._where(number)} has a class twice at one place, which leaves open what "
                f"its logit is: it is damaged; {MEND}."
            )


def pooling_weights(
    boxes: npt.NDArray[np.int32], width: int, height: int, side: int
) -> npt.NDArray[np.float64]:
    """How much each place of a label map counts in the label of a crop.

    torchvision's ``roi_align`` with one output place, ``aligned=False`` and as many samples along
    an axis as the crop has places there, rounded up: the mean of bilinear samples. It is a product
    of the weights of both axes.

    Args:
        boxes: (V, 4) top, left, height, width in pixels. width, height: of the photo.
        side: places along a side of the map.

    Returns:
        (V, side * side), rows sum to 1 where the crop lies in the photo; the map's last axis, which
        runs down the photo, fastest.
    """
    # As the project has them: shares of the sides, and from there on in float32.
    shares = boxes / np.array([height, width, height, width])
    corners = np.concatenate([shares[:, :2], shares[:, :2] + shares[:, 2:]], axis=1)
    places = corners.astype(np.float32) * np.float32(side) - np.float32(0.5)
    down = _axis_weights(places[:, 0], places[:, 2], side)
    across = _axis_weights(places[:, 1], places[:, 3], side)
    return (across[:, :, None] * down[:, None, :]).reshape(len(boxes), side * side)


def _axis_weights(
    start: npt.NDArray[np.float32], end: npt.NDArray[np.float32], side: int
) -> npt.NDArray[np.float64]:
    """(V, side) weights of the places along one axis, of crops from ``start`` to ``end``."""
    weights = np.zeros((len(start), side))
    extent = np.maximum(end - start, np.float32(1)).astype(np.float64)
    counts = np.ceil(extent).astype(np.int64)
    start = start.astype(np.float64)
    for sample in range(int(counts.max())):
        sampled = np.flatnonzero(sample < counts)
        at = start[sampled] + (sample + 0.5) * extent[sampled] / counts[sampled]
        # Outside of the map by more than a place a sample is 0.
        sampled, at = sampled[(at >= -1) & (at <= side)], at[(at >= -1) & (at <= side)]
        at = np.clip(at, 0, side - 1)
        low = np.floor(at).astype(np.int64)
        high = np.minimum(low + 1, side - 1)
        np.add.at(weights, (sampled, low), (1 - (at - low)) / counts[sampled])
        np.add.at(weights, (sampled, high), (at - low) / counts[sampled])
    return weights
