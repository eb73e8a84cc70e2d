"""What the page of ``labelstore compare --report`` shows: the comparison, and crops and photos."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labelstore.operations.inspection.labelled_photos import LabelledPhotos
from labelstore.pictures.thumbnails import Budget, photo_thumbnail

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

    from labelstore.images.sources.choose import ImageSource
    from labelstore.store.label_reader import LabelReader

__all__ = ["LIMIT_BYTES", "page_data"]

LIMIT_BYTES = 6 * 10**6
"""Bytes that the pictures of a page take at most, as they stand in it."""


def page_data(
    a: LabelReader,
    comparison: dict[str, Any],
    photos: ImageSource | LabelledPhotos | None = None,
    limit_bytes: int = LIMIT_BYTES,
    tell: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """The data of the page ``compare`` (``labelstore.pictures.page.render``).

    Args:
        a: the first store.
        comparison: what ``labelstore.operations.inspection.compare.compare`` says of it and of
            another.
        photos: where its photos are; a photo that is not the one that was labelled is not shown.
        limit_bytes: bytes of the pictures together, at most.
        tell: called after each photo with how many are done, and of how many.

    Returns:
        a dict, ready for JSON, of

        - ``comparison``: the comparison, its ``classes`` as columns: a dict of lists; each of its
          ``largest_views`` and ``largest_images`` has ``picture``: the crop, and the photo, as a
          data URI, or None;
        - ``pictures``: None without photos, else ``source``, ``shown`` (how many pictures),
          ``bytes``, ``limit_bytes``, ``left_out`` (pictures for which there was no room), and
          ``missing``, ``different``, ``unreadable``: how many of the photos were so.

    Raises:
        MismatchError: the source has no photo of any labelled image.
    """
    views = [{**entry, "picture": None} for entry in comparison["largest_views"]]
    images = [{**entry, "picture": None} for entry in comparison["largest_images"]]
    rows = comparison["classes"]
    shown = {
        **comparison,
        "classes": {name: [row[name] for row in rows] for name in (rows[0] if rows else ())},
        "largest_views": views,
        "largest_images": images,
    }
    pictures = None
    if photos is not None:
        if not isinstance(photos, LabelledPhotos):
            photos = LabelledPhotos(a, photos)
        pictures = _add_pictures(a, photos, [*views, *images], Budget(limit_bytes), tell)
    return {"comparison": shown, "pictures": pictures}


def _add_pictures(
    a: LabelReader,
    photos: LabelledPhotos,
    entries: list[dict[str, Any]],
    budget: Budget,
    tell: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """Put pictures into the entries, those of each photo one after another; what came of it."""
    by_image: dict[int, list[dict[str, Any]]] = {}
    for entry in entries:
        by_image.setdefault(entry["image_a"], []).append(entry)
    readable = 0
    for number, (image, of_image) in enumerate(by_image.items(), 1):
        photo = photos.read(image)
        if photo is not None:
            readable += len(of_image)
            for entry in of_image:
                picture = _picture(a, photos, photo, entry)
                entry["picture"] = None if picture is None else budget.take(picture)
        if tell is not None:
            tell(number, len(by_image))
    shown = sum(entry["picture"] is not None for entry in entries)
    return {
        "source": photos.path,
        "shown": shown,
        "bytes": budget.used_bytes,
        "limit_bytes": budget.limit_bytes,
        "left_out": readable - shown,
        "missing": len(photos.missing),
        "different": len(photos.different),
        "unreadable": len(photos.unreadable),
    }


def _picture(
    a: LabelReader, photos: LabelledPhotos, photo: Image.Image, entry: dict[str, Any]
) -> str | None:
    """The crop of a view, where it is known which one that is; else the photo."""
    if "view" not in entry or a.law is None:
        return photo_thumbnail(photo)
    return photos.crop_picture(photo, entry["image_a"], entry["view"])
