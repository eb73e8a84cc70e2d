"""Curricula: each image's views from easy to hard, or from hard to easy, over a whole training.

The baselines of the FerKD paper's section 4.3 and table 7: "e-to-h" and "h-to-e". A view is the
easier the larger its confidence. An epoch of a curriculum shows views from all over the store, so
that, unlike a random schedule, it needs every group of views. Places follow the number of the
epoch: what a curriculum promises is told at ``curriculum_views``, and with a budget, which leaves
images out of epochs, an image passes over the places of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from labelstore.errors import UsageError, require_choice
from labelstore.training.decisions import confidence_planes

if TYPE_CHECKING:
    import numpy.typing as npt

    from labelstore.labels.ferkd import EnsembleFerKD, FerKD
    from labelstore.store.label_reader import LabelReader
    from labelstore.training.decisions import ViewMask

__all__ = ["ConfidenceOrder", "Direction", "confidence_order", "curriculum_views"]

Direction = Literal["easy-to-hard", "hard-to-easy"]

MOST_EPOCHS = 1_000_000
"""With more, the products of epochs and views might leave int64."""

MOST_VIEWS = 2**16
"""View numbers are held as uint16."""


@dataclass(frozen=True)
class ConfidenceOrder:
    """The views of every image, sorted by confidence."""

    views: npt.NDArray[np.uint16]
    """(num_images, num_views) uint16: the views that take part, from the easiest to the hardest,
    then those that do not."""
    counts: npt.NDArray[np.int32]
    """(num_images,) int32: how many views of each image take part, 1..num_views."""


def curriculum_views(
    order: npt.ArrayLike,
    epoch: int,
    epochs: int,
    views_per_image: int,
    direction: Direction = "easy-to-hard",
    counts: npt.ArrayLike | None = None,
) -> npt.NDArray[np.int64]:
    """The views that images show in an epoch of a curriculum.

    With n views that take part, m shown at a time and E epochs, epoch e shows the views at the
    sorted places, j = 0..m-1 (section 4.3 leaves the pace open; this one is even):

    - n >= E m: ``floor((e m + j) n / (E m))``. No view comes twice in the E epochs, and they pass
      over the whole range once.
    - m <= n < E m, too few for every epoch to have its own: ``floor(e (n - m) / (E - 1)) + j``, a
      window of m neighbours that moves from one end to the other. Epochs share views, an epoch
      never shows one twice, and every view is shown.
    - n < m: ``j mod n``. Every epoch shows all n views, in turn.

    From hard to easy, place p becomes n - 1 - p.

    Args:
        order: (N, V) integers: each image's views from the easiest to the hardest.
        epoch: 0..epochs-1.
        epochs: of the whole training, 1..1,000,000.
        views_per_image: how many to show, 1..V.
        direction: which views come first.
        counts: (N,) integers 1..V: how many of a row's first views take part; all when None.

    Returns:
        (N, views_per_image) int64 view numbers.

    Raises:
        UsageError: numbers out of range.
    """
    rows = np.asarray(order)
    if rows.ndim != 2:
        raise UsageError(f"order has shape {rows.shape}, expected (images, views).")
    _check(epoch, epochs, views_per_image, rows.shape[1], direction)
    count = np.full(len(rows), rows.shape[1]) if counts is None else np.asarray(counts)
    if count.shape != (len(rows),) or (
        len(rows) and not 1 <= count.min() <= count.max() <= rows.shape[1]
    ):
        raise UsageError(
            f"counts have shape {count.shape} and reach from {count.min(initial=0)} to "
            f"{count.max(initial=0)}, expected ({len(rows)},) numbers from 1 to {rows.shape[1]}: "
            "give one for each image."
        )
    n = count.astype(np.int64)[:, None]
    m, turn = views_per_image, np.arange(views_per_image, dtype=np.int64)
    spread = (epoch * m + turn) * n // (epochs * m)
    window = epoch * (n - m) // max(epochs - 1, 1) + turn
    places = np.where(n >= epochs * m, spread, np.where(n >= m, window, turn % n))
    if direction == "hard-to-easy":
        places = n - 1 - places
    return np.take_along_axis(rows, places, axis=1).astype(np.int64)


def confidence_order(
    reader: LabelReader,
    ferkd: FerKD | EnsembleFerKD | None = None,
    *,
    mask: ViewMask | None = None,
    least: int = 1,
) -> ConfidenceOrder:
    """Sort the views of every image by confidence; ties by view number, views without labels last.

    The confidences are streamed once, block by block; what is kept is 2 bytes a view and 4 an
    image: 1.28 GB for 1.28 M images x 500 views. Of an ensemble it is the confidence of the mean
    label, which is not stored: its members' whole labels are read.

    Args:
        reader: a store or an ensemble.
        ferkd: whose ``confidence`` says which probability counts; the largest when None.
        mask: when given, views that are discarded take no part.
        least: how many views of an image take part of which none passes, its most confident ones,
            1..num_views.

    Raises:
        UsageError: more than 65,536 views an image. LabelError: the ground truth is needed and
        unknown. StoreError: labels are missing or damaged.
    """
    if reader.num_views > MOST_VIEWS:
        raise UsageError(
            f"{reader.path} has {reader.num_views} views of each image, a curriculum orders at "
            f"most {MOST_VIEWS}: use a random schedule."
        )
    views = np.empty((reader.num_images, reader.num_views), dtype=np.uint16)
    views[:] = np.arange(reader.num_views)
    counts = np.full(reader.num_images, reader.num_views, dtype=np.int32)
    for rows, plane in confidence_planes(reader, ferkd):
        # NaN is larger than every number to argsort, and so stands last.
        order = np.argsort(-plane, axis=1, kind="stable")
        if mask is not None:
            passes = mask.passes(np.arange(rows.start, rows.stop))
            dropped = ~np.take_along_axis(passes, order, axis=1)
            first = np.argsort(dropped, axis=1, kind="stable")
            order = np.take_along_axis(order, first, axis=1)
            passing = passes.sum(axis=1)
            counts[rows] = np.where(passing, passing, least)
        views[rows] = order
    return ConfidenceOrder(views, counts)


def _check(epoch: int, epochs: int, views_per_image: int, num_views: int, direction: str) -> None:
    require_choice("direction", direction, get_args(Direction))
    if not 1 <= epochs <= MOST_EPOCHS:
        raise UsageError(
            f"epochs is {epochs}, expected 1 to {MOST_EPOCHS}: give the number of epochs of the "
            "whole training."
        )
    if not 0 <= epoch < epochs:
        raise UsageError(
            f"epoch is {epoch}, expected 0 to {epochs - 1}: a curriculum ends with its last epoch, "
            "so give the number of epochs of the whole training as epochs."
        )
    if num_views > MOST_VIEWS or not 1 <= views_per_image <= num_views:
        raise UsageError(
            f"views per image is {views_per_image}, expected 1 to {num_views}, the views that are "
            f"stored of each image (at most {MOST_VIEWS}): choose a number in that range."
        )
