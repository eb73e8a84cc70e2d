"""What the page of ``labelstore inspect --report`` shows: the report, and crops and photos.

Which crops and images are shown depends on the store and the report alone. Pictures are added in
order of worth until their bytes are used up: photos with a likely wrong ground truth, the gallery,
examples of crops by confidence, and the photos of confusions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.labels.ferkd import Action, ClassThresholds, FerKD
from labelstore.operations.inspection.labelled_photos import LabelledPhotos
from labelstore.pictures.thumbnails import Budget, photo_thumbnail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy.typing as npt
    from PIL import Image

    from labelstore.images.sources.choose import ImageSource
    from labelstore.labels.soft_labels import SoftLabels
    from labelstore.labels.top_k import TopK
    from labelstore.store.store import Store

    Int64Array = npt.NDArray[np.int64]

__all__ = ["LIMIT_BYTES", "page_data"]

LIMIT_BYTES = 6 * 10**6
"""Bytes that the pictures of a page take at most, as they stand in it."""

SAMPLE_CROPS = 2000
"""Crops of Figure 1, about."""

SAMPLE_BLOCKS = 64
"""Blocks that they come from at most: each is read and decoded."""

GALLERY_IMAGES = 24
"""Images that are shown with crops."""

END_VIEWS = 3
"""Crops of such an image at either end of the confidence."""

NAMED_CLASSES = 5
"""Classes of a label that are shown."""

EXAMPLE_BINS, EXAMPLES_A_BIN = 40, 3
"""Examples are chosen in so many ranges of confidence, so that some are near any threshold."""


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
    rows, views = _sample(store)
    examples = _examples(store, rule, rows, views)
    full, light = _named_images(report)
    images = [_image(store, rule, image, image in full) for image in sorted({*full, *light})]
    data = {
        "report": {**report, "classes": _columns(report["classes"])},
        "crops": _figure_1(store, rows, views),
        "examples": examples,
        "images": images,
        "pictures": None,
    }
    if photos is not None:
        if not isinstance(photos, LabelledPhotos):
            photos = LabelledPhotos(store, photos)
        requests = _requests(report, full, images, examples)
        data["pictures"] = _add_pictures(store, photos, requests, Budget(limit_bytes), tell)
    return data


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """A row for each class, of up to tens of thousands, without the names in each."""
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def _sample(store: Store) -> tuple[Int64Array, Int64Array]:
    """Images (n,) and views (n,) of about ``SAMPLE_CROPS`` crops, or of all where they are fewer.

    They come from blocks, images and groups of views at even distances: a few chunks are read.
    """
    labelled = store.labelled()
    count, total = store.num_views, int(labelled.sum()) * store.num_views
    if total <= SAMPLE_CROPS:
        rows, views = np.meshgrid(np.flatnonzero(labelled), np.arange(count), indexing="ij")
        return rows.reshape(-1), views.reshape(-1)
    manifest = store.manifest
    runs = [manifest.block_slice(block) for block in range(manifest.num_blocks)]
    images_of_blocks = [run.start + np.flatnonzero(labelled[run]) for run in runs]
    blocks = _spread([images for images in images_of_blocks if images.size], SAMPLE_BLOCKS)
    crops_per_block = -(-SAMPLE_CROPS // len(blocks))
    all_rows, all_views = [], []
    for number, images in enumerate(blocks):
        some = _spread(images, crops_per_block)
        each = min(-(-crops_per_block // len(some)), count)
        # Another group of views in each block.
        start = number * manifest.num_groups // len(blocks) * manifest.group_views
        all_rows.append(np.repeat(some, each))
        all_views.append(np.tile((start + np.arange(each)) % count, len(some)))
    rows, views = np.concatenate(all_rows), np.concatenate(all_views)
    chosen = _spread(np.arange(len(rows)), SAMPLE_CROPS)
    return rows[chosen], views[chosen]


def _spread(items: Any, count: int) -> Any:
    """``count`` of the items at even distances, all where they are fewer."""
    if len(items) <= count:
        return items
    places = np.arange(count) * len(items) // count
    return items[places] if isinstance(items, np.ndarray) else [items[place] for place in places]


def _figure_1(store: Store, rows: Int64Array, views: Int64Array) -> dict[str, Any] | None:
    width, height = (side.astype(np.float64) for side in store.sizes(rows))
    known = (width > 0) & (height > 0)
    if store.law is None or not known.any():
        return None
    rows, views, width, height = rows[known], views[known], width[known], height[known]
    box = store.views(rows, views).box.astype(np.float64)
    columns: dict[str, Any] = {
        "x": (box[:, 1] + box[:, 3] / 2) / width,
        "y": (box[:, 0] + box[:, 2] / 2) / height,
        "area": box[:, 2] * box[:, 3] / (width * height),
        "confidence": store.read(rows, views).confidence,
    }
    return {name: [round(float(x), 4) for x in column] for name, column in columns.items()}


def _examples(
    store: Store, rule: FerKD, rows: Int64Array, views: Int64Array
) -> list[dict[str, Any]]:
    if rule.confidence == "target":
        known = store.targets[rows] >= 0
        rows, views = rows[known], views[known]
    if not rows.size:
        return []
    topk = store.read(rows, views)
    values = rule.confidence_of(None, topk, store.targets[rows])
    bins = np.minimum((values * EXAMPLE_BINS).astype(np.int64), EXAMPLE_BINS - 1)
    chosen: list[int] = []
    for number in range(EXAMPLE_BINS):
        inside = np.flatnonzero(bins == number)
        # Of different images as far as there are, and at even distances in the range.
        _, first = np.unique(rows[inside], return_index=True)
        inside = inside[first] if len(first) >= EXAMPLES_A_BIN else inside
        inside = inside[np.argsort(values[inside], kind="stable")]
        chosen += _spread(inside, EXAMPLES_A_BIN).tolist()
    chosen.sort(key=lambda place: float(values[place]))
    return [
        {
            "image": int(rows[place]),
            "key": store.keys[rows[place]],
            "view": int(views[place]),
            "confidence": float(values[place]),
            "class": int(topk.indices[place, 0]),
            "picture": None,
        }
        for place in chosen
    ]


def _named_images(report: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Images that are shown with crops, and all others that the report names, in order of worth."""
    extremes, drift = report["extremes"], report["drift"] or {"largest": [], "smallest": []}
    ends = [
        *_turns(extremes["hardest_images"], extremes["easiest_images"]),
        *_turns(extremes["hardest_views"], extremes["easiest_views"]),
        *_turns(drift["largest"], drift["smallest"]),
    ]
    wrong = _suspects(report)
    confused = [entry for pair in report["confusion"] for entry in pair["images"]]
    named = _unique(entry["image"] for entry in [*ends, *wrong, *confused])
    return named[:GALLERY_IMAGES], named[GALLERY_IMAGES:]


def _suspects(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Images whose ground truth is doubted: the list goes on with others where they are few."""
    entries = (report["wrong_targets"] or {"entries": []})["entries"]
    return [entry for entry in entries if entry["candidate"] or entry["margin"] < 0]


def _turns(a: list[Any], b: list[Any]) -> list[Any]:
    """The entries of two lists, in turns."""
    longest = range(max(len(a), len(b)))
    return [entries[place] for place in longest for entries in (a, b) if place < len(entries)]


def _unique(items: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(items))


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
    boxes = store.views(image, order).box if _replays(store, image) else None
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


def _replays(store: Store, image: int) -> bool:
    """Whether the boxes of an image are known."""
    return store.law is not None and min(int(side) for side in store.sizes(image)) > 0


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


@dataclass
class _Request:
    """Pictures of an image that the page has places for."""

    photo: dict[str, Any] | None = None
    crops: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """View -> the entries that show it."""


def _requests(
    report: dict[str, Any],
    full: list[int],
    images: list[dict[str, Any]],
    examples: list[dict[str, Any]],
) -> dict[int, _Request]:
    """Image -> its pictures, in order of worth."""
    entries = {entry["image"]: entry for entry in images}
    wrong = _suspects(report)
    order = _unique(
        [
            *(entry["image"] for entry in wrong),
            *full,
            *(example["image"] for example in examples),
            *entries,
        ]
    )
    requests = {image: _Request(entries.get(image)) for image in order}
    for image in full:
        for view in entries[image]["views"]:
            requests[image].crops.setdefault(view["view"], []).append(view)
    for example in examples:
        requests[example["image"]].crops.setdefault(example["view"], []).append(example)
    return requests


def _add_pictures(
    store: Store,
    photos: LabelledPhotos,
    requests: dict[int, _Request],
    budget: Budget,
    tell: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """Put pictures into their places; what came of it."""
    shown, asked = 0, 0
    for number, (image, request) in enumerate(requests.items()):
        crops = request.crops if _replays(store, image) else {}
        asked_here = (request.photo is not None) + sum(map(len, crops.values()))
        photo = None if budget.used_up or not asked_here else photos.read(image)
        if photo is not None:
            shown += _add_to(photos, image, photo, request, crops, budget)
            asked += asked_here
        elif budget.used_up:
            asked += asked_here
        if tell is not None:
            tell(number + 1, len(requests))
    return {
        "source": photos.path,
        "shown": shown,
        "bytes": budget.used_bytes,
        "limit_bytes": budget.limit_bytes,
        "left_out": asked - shown,
        "missing": len(photos.missing),
        "different": len(photos.different),
        "unreadable": len(photos.unreadable),
    }


def _add_to(
    photos: LabelledPhotos,
    image: int,
    photo: Image.Image,
    request: _Request,
    crops: dict[int, list[dict[str, Any]]],
    budget: Budget,
) -> int:
    """Put the pictures of one image into their places; how many there was room for."""
    shown = 0
    if request.photo is not None:
        request.photo["picture"] = budget.take(photo_thumbnail(photo))
        shown += request.photo["picture"] is not None
    for view, entries in crops.items():
        picture = photos.crop_picture(photo, image, view)
        for entry in entries:
            entry["picture"] = None if picture is None else budget.take(picture)
            shown += entry["picture"] is not None
    return shown
