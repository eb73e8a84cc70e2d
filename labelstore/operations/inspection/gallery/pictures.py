"""Which pictures a page shows, in order of worth, as far as there is room for their bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from labelstore.pictures.thumbnails import Budget, photo_thumbnail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from PIL import Image

    from labelstore.operations.inspection.labelled_photos import LabelledPhotos
    from labelstore.store.store import Store

__all__ = ["PictureRequest", "add_pictures", "has_boxes", "picture_requests", "suspects", "unique"]


@dataclass
class PictureRequest:
    """Pictures of an image that the page has places for."""

    photo: dict[str, Any] | None = None
    crops: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """View -> the entries that show it."""


def picture_requests(
    report: dict[str, Any],
    full: list[int],
    images: list[dict[str, Any]],
    examples: list[dict[str, Any]],
) -> dict[int, PictureRequest]:
    """Image -> its pictures, in order of worth."""
    entries = {entry["image"]: entry for entry in images}
    wrong = suspects(report)
    order = unique(
        [
            *(entry["image"] for entry in wrong),
            *full,
            *(example["image"] for example in examples),
            *entries,
        ]
    )
    requests = {image: PictureRequest(entries.get(image)) for image in order}
    for image in full:
        for view in entries[image]["views"]:
            requests[image].crops.setdefault(view["view"], []).append(view)
    for example in examples:
        requests[example["image"]].crops.setdefault(example["view"], []).append(example)
    return requests


def add_pictures(
    store: Store,
    photos: LabelledPhotos,
    requests: dict[int, PictureRequest],
    budget: Budget,
    tell: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """Put pictures into their places; what came of it."""
    shown, asked = 0, 0
    for number, (image, request) in enumerate(requests.items()):
        crops = request.crops if has_boxes(store, image) else {}
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
    request: PictureRequest,
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


def suspects(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Images whose ground truth is doubted: the list goes on with others where they are few."""
    entries = (report["wrong_targets"] or {"entries": []})["entries"]
    return [entry for entry in entries if entry["candidate"] or entry["margin"] < 0]


def unique(items: Iterable[int]) -> list[int]:
    """Each number once, in the order in which they come first."""
    return list(dict.fromkeys(items))


def has_boxes(store: Store, image: int) -> bool:
    """Whether the boxes of an image are known."""
    return store.law is not None and min(int(side) for side in store.sizes(image)) > 0
