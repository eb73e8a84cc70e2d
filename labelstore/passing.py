"""Which views pass FerKD's rule, at one bit a view: what a surgical schedule looks at.

Made once for each set of thresholds by streaming a store: 80 MB for 1.28 M images x 500 views.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.calibrate import Action
from labelstore.ensembles import Ensemble
from labelstore.labels import TopK
from labelstore.schedule import most_confident

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from labelstore.calibrate import FerKD
    from labelstore.labels import Tail
    from labelstore.store import Store

    Planes = Iterator[tuple[slice, npt.NDArray[Any]]]

__all__ = ["Passing", "passing"]

_RUN_IMAGES = 256
"""Images without a passing view whose confidences are read at a time."""


@dataclass(frozen=True)
class Passing:
    """The views of every image that are not discarded."""

    bits: npt.NDArray[np.uint8]
    """(num_images, ceil(num_views / 8)) uint8, view 0 in the highest bit of the first byte."""
    num_views: int
    hopeless: npt.NDArray[np.int64]
    """(h,) int64, rising: labelled images of which every view is discarded."""
    best: npt.NDArray[np.int64]
    """(h, count) int64: their most confident views, falling."""

    def passes(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """(n, num_views) bool, for images by position."""
        return np.unpackbits(self.bits[images], axis=1, count=self.num_views).view(bool)

    def fallback(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """(n, count) int64: the most confident views where none passes, 0 elsewhere."""
        out = np.zeros((len(images), self.best.shape[1]), dtype=np.int64)
        places = np.searchsorted(self.hopeless, images)
        found = places < len(self.hopeless)
        found[found] = self.hopeless[places[found]] == images[found]
        out[found] = self.best[places[found]]
        return out


def passing(reader: Store | Ensemble, ferkd: FerKD, count: int, tail: Tail = "uniform") -> Passing:
    """Apply a rule to the confidence of every view.

    Args:
        reader: a store or an ensemble, complete.
        ferkd: the rule; for an ensemble its ``ensemble`` says how the teachers combine.
        count: how many views to keep of an image that has no passing one, 1..num_views.
        tail: how the residual mass is spread, where the confidence is that of recovered labels.

    Raises:
        LabelError: ``confidence="target"`` and an image without ground truth.
        StoreError: labels are missing or damaged.
    """
    if isinstance(reader, Ensemble) and ferkd.ensemble != "mean":
        bits = _combined(reader, ferkd, tail)
    else:
        bits = _bits(reader, ferkd, tail, np.asarray(reader.targets))
    hopeless = np.flatnonzero(~bits.any(axis=1) & reader.labelled())
    best = np.empty((len(hopeless), count), dtype=np.int64)
    for start in range(0, len(hopeless), _RUN_IMAGES):
        run = slice(start, start + _RUN_IMAGES)
        best[run] = most_confident(_confidence(reader, hopeless[run], ferkd, tail), count)
    return Passing(bits, reader.num_views, hopeless, best)


def _combined(reader: Ensemble, ferkd: FerKD, tail: Tail) -> npt.NDArray[np.uint8]:
    """The members' bits, each read in its own order of images, combined image by image."""
    combine = np.bitwise_or if ferkd.ensemble == "all" else np.bitwise_and

    def aligned(member: Store) -> npt.NDArray[np.uint8]:
        rows = member.index_of(reader.keys)
        targets = np.empty(member.num_images, dtype=np.int32)
        targets[rows] = reader.targets
        return _bits(member, ferkd, tail, targets, reader.num_views)[rows]

    return functools.reduce(combine, (aligned(member) for member in reader.members))


def _bits(
    reader: Store | Ensemble,
    ferkd: FerKD,
    tail: Tail,
    targets: npt.NDArray[np.int32],
    num_views: int | None = None,
) -> npt.NDArray[np.uint8]:
    views = num_views or reader.num_views
    bits = np.zeros((reader.num_images, -(-views // 8)), dtype=np.uint8)
    planes: Planes
    if ferkd.confidence == "max" and not isinstance(reader, Ensemble):
        planes = reader.iter_confidence()
    else:
        planes = _read_planes(reader, ferkd, tail, targets)
    for rows, plane in planes:
        known = plane[:, :views]
        # An unreadable image has no confidence (NaN), and no bit.
        passed = (ferkd.decide(known) != Action.DISCARDED) & ~np.isnan(known)
        bits[rows] = np.packbits(passed, axis=1)
    return bits


def _read_planes(
    reader: Store | Ensemble, ferkd: FerKD, tail: Tail, targets: npt.NDArray[np.int32]
) -> Planes:
    """Confidence planes from whole labels, where the largest probability alone does not tell."""
    labelled = reader.labelled()
    for block in range(reader.manifest.num_blocks):
        rows = reader.manifest.block_slice(block)
        images = np.arange(rows.start, rows.stop)[labelled[rows]]
        found = _confidence(reader, images, ferkd, tail, targets)
        plane = np.full((rows.stop - rows.start, reader.num_views), np.nan, dtype=found.dtype)
        plane[images - rows.start] = found
        yield rows, plane


def _confidence(
    reader: Store | Ensemble,
    images: npt.NDArray[np.int64],
    ferkd: FerKD,
    tail: Tail,
    targets: npt.NDArray[np.int32] | None = None,
) -> npt.NDArray[Any]:
    """(n, num_views) floats from labels as stored; of the mean label for an ensemble.

    The rule's own precision is kept, since a threshold may meet a confidence exactly.
    """
    known = (np.asarray(reader.targets) if targets is None else targets)[images][:, None]
    parts = []
    for group in range(reader.manifest.num_groups):
        columns = np.arange(reader.num_views)[reader.manifest.group_slice(group)]
        topk = reader.read(images[:, None], columns)
        stored = topk if isinstance(topk, TopK) else None
        parts.append(ferkd.confidence_of(topk.recover(tail), stored, known))
    return np.concatenate(parts, axis=1)
