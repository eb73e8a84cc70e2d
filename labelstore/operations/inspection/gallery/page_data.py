"""What the page of ``labelstore inspect --report`` shows: the report, and crops and photos.

Which crops and images are shown depends on the store and the report alone. Pictures are added in
order of worth until their bytes are used up: photos with a likely wrong ground truth, the gallery,
examples of crops by confidence, and the photos of confusions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.labels.actions import Action
from labelstore.labels.calibration.thresholds import ClassThresholds
from labelstore.labels.ferkd import FerKD
from labelstore.operations.inspection.gallery.pictures import (
    add_pictures,
    has_boxes,
    picture_requests,
    suspects,
    unique,
)
from labelstore.operations.inspection.gallery.sampled_crops import (
    examples,
    figure_1,
    sampled_crops,
)
from labelstore.operations.inspection.labelled_photos import LabelledPhotos
from labelstore.pictures.thumbnails import Budget

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from labelstore.images.sources.choose import ImageSource
    from labelstore.labels.soft_labels import SoftLabels
    from labelstore.labels.top_k import TopK
    from labelstore.store.store import Store

__all__ = ["LIMIT_BYTES", "page_data"]

LIMIT_BYTES = 6 * 10**6
"""Bytes that the pictures of a page take at most, as they stand in it."""

GALLERY_IMAGES = 24
"""Images that are shown with crops."""

END_VIEWS = 3
"""Crops of such an image at either end of the confidence."""

NAMED_CLASSES = 5
"""Classes of a label that are shown."""


def page_data(
    store: Store,
    report: dict[str, Any],
    photos: ImageSource | LabelledPhotos | None = None,
    limit_bytes: int = LIMIT_BYTES,
    tell: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """The data of the page ``report`` (``labelstore.pictures.page.render``).

    Args:
        store: the store.
        report: what ``labelstore.operations.inspection.inspect.report`` says of it.
        photos: where its photos are; a photo that is not the one that was labelled is not shown.
        limit_bytes: bytes of the pictures together, at most.
        tell: called after each photo with how many are done, and of how many.

    Returns:
        a dict, ready for JSON, of

        - ``report``: the report, its ``classes`` as columns: a dict of lists;
        - ``crops``: Figure 1; None where boxes or sizes are unknown, else a dict of the lists
          ``x``, ``y`` (a box's centre, 0..1 of the photo's width and height), ``area`` (share of
          the photo's) and ``confidence`` (largest probability), a value for each crop of a sample;
        - ``examples``: crops by rising confidence (what FerKD's rule looks at): dicts of ``image``,
          ``key``, ``view``, ``confidence``, ``class`` (the largest) and ``picture``;
        - ``images``: those that the report names, in the order of the store: dicts of ``image``,
          ``key``, ``target`` (None: unknown), ``width``, ``height`` (None: unknown), ``picture``
          and ``views``: None, or those of least and most confidence: dicts of ``view``,
          ``confidence``, ``box`` (top, left, height, width; None: unknown), ``action`` (FerKD's,
          or None where it needs a ground truth), ``stored`` and ``calibrated``: [class,
          probability] of the largest classes, and ``base``: the probability of every class that
          the calibrated label does not name; ``picture``;
        - ``pictures``: None without photos, else ``source``, ``shown`` (how many pictures),
          ``bytes``, ``limit_bytes``, ``left_out`` (pictures for which there was no room), and
          ``missing``, ``different``, ``unreadable``: how many of the photos were so.

        A ``picture`` is a data URI, or None.

    Raises:
        MismatchError: the source has no photo of any labelled image. CorruptError: what is on disk
            is not what was committed.
    """
    ferkd = report["ferkd"]
    own = ferkd["by_class"]
    rule = FerKD(
        ferkd["low"],
        ferkd["middle"],
        ferkd["top"],
        confidence=ferkd["confidence"],
        by_class=None if own is None else ClassThresholds(**own),
    )
    rows, views = sampled_crops(store)
    shown = examples(store, rule, rows, views)
    full, light = _named_images(report)
    images = [_image(store, rule, image, image in full) for image in sorted({*full, *light})]
    data = {
        "report": {**report, "classes": _columns(report["classes"])},
        "crops": figure_1(store, rows, views),
        "examples": shown,
        "images": images,
        "pictures": None,
    }
    if photos is not None:
        if not isinstance(photos, LabelledPhotos):
            photos = LabelledPhotos(store, photos)
        requests = picture_requests(report, full, images, shown)
        data["pictures"] = add_pictures(store, photos, requests, Budget(limit_bytes), tell)
    return data


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """A row for each class, of up to tens of thousands, without the names in each."""
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def _named_images(report: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Images that are shown with crops, and all others that the report names, in order of worth."""
    extremes, drift = report["extremes"], report["drift"] or {"largest": [], "smallest": []}
    ends = [
        *_turns(extremes["hardest_images"], extremes["easiest_images"]),
        *_turns(extremes["hardest_views"], extremes["easiest_views"]),
        *_turns(drift["largest"], drift["smallest"]),
    ]
    wrong = suspects(report)
    confused = [entry for pair in report["confusion"] for entry in pair["images"]]
    named = unique(entry["image"] for entry in [*ends, *wrong, *confused])
    return named[:GALLERY_IMAGES], named[GALLERY_IMAGES:]


def _turns(a: list[Any], b: list[Any]) -> list[Any]:
    """The entries of two lists, in turns."""
    longest = range(max(len(a), len(b)))
    return [entries[place] for place in longest for entries in (a, b) if place < len(entries)]


def _image(store: Store, rule: FerKD, image: int, with_views: bool) -> dict[str, Any]:
    width, height = (int(side) for side in store.sizes(image))
    target = int(store.targets[image])
    return {
        "image": image,
        "key": store.keys[image],
        "target": target if target >= 0 else None,
        "width": width if width > 0 else None,
        "height": height if height > 0 else None,
        "picture": None,
        "views": _views(store, rule.of_class(target), image) if with_views else None,
    }


def _views(store: Store, rule: FerKD, image: int) -> list[dict[str, Any]]:
    """Views of an image at either end of the confidence, by rising confidence."""
    order = np.argsort(store.confidence(slice(image, image + 1))[0], kind="stable")
    if len(order) > 2 * END_VIEWS:
        order = np.concatenate([order[:END_VIEWS], order[-END_VIEWS:]])
    topk = store.read(image, order)
    target = int(store.targets[image])
    actions = _actions(rule, topk, target)
    labels = topk.recover()
    if target >= 0:
        labels = rule.apply(topk, np.full(len(order), target)).labels
    boxes = store.views(image, order).box if has_boxes(store, image) else None
    shown = []
    for place, view in enumerate(order):
        action = None if actions is None else Action(int(actions[place]))
        calibrated, base = _largest(labels, place)
        unknown = target < 0 and action == Action.CALIBRATED
        shown.append(
            {
                "view": int(view),
                "confidence": float(topk.confidence[place]),
                "box": None if boxes is None else boxes[place].tolist(),
                "action": None if action is None else action.name.lower(),
                "stored": _pairs(topk.indices[place], topk.probs[place]),
                "calibrated": None if unknown else calibrated,
                "base": None if unknown else base,
                "picture": None,
            }
        )
    return shown


def _actions(rule: FerKD, topk: TopK, target: int) -> npt.NDArray[np.uint8] | None:
    if target < 0 and rule.confidence == "target":
        return None
    return rule.decide(rule.confidence_of(None, topk, np.full(len(topk), target)))


def _pairs(classes: npt.NDArray[Any], probs: npt.NDArray[Any]) -> list[list[Any]]:
    return [
        [int(number), float(p)]
        for number, p in zip(classes[:NAMED_CLASSES], probs[:NAMED_CLASSES], strict=True)
        if p > 0
    ]


def _largest(labels: SoftLabels, place: int) -> tuple[list[list[Any]], float]:
    """The largest classes of one label, and what every class has that it does not name."""
    base = float(labels.base[place])
    classes, inverse = np.unique(labels.indices[place], return_inverse=True)
    sums = np.bincount(inverse.reshape(-1), labels.weights[place].astype(np.float64))
    order = np.argsort(-sums, kind="stable")
    order = order[np.abs(sums[order]) > 0]
    return _pairs(classes[order], np.maximum(base + sums[order], 0)), base
