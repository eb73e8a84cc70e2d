"""The contact sheet of one image of a store: its photo is looked up, compared and cut."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from labelstore.errors import MismatchError, NotFoundError, did_you_mean
from labelstore.images.decoding import decode
from labelstore.images.mixing.partners import PartnerPhotos
from labelstore.images.photo_file import is_same_file, is_same_size
from labelstore.images.pixels import content_digest, render
from labelstore.pictures.contact_sheet import contact_sheet
from labelstore.store.mixed_views import is_mixed, partner_views

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image

    from labelstore.images.sources.choose import ImageSource
    from labelstore.store.label_reader import LabelReader

__all__ = ["draw_sheet", "photo_of"]

UNKNOWN_INPUT = ((224, 224), "bicubic")
"""How crops are drawn where the store does not say what its teacher saw."""


def draw_sheet(store: LabelReader, shown: Mapping[str, Any], source: ImageSource) -> Image.Image:
    """Draw the views of one image, as ``labelstore.pictures.contact_sheet`` does.

    Args:
        store: whose. shown: what ``describe`` told of the views.
        source: the photos that were labelled.

    Raises:
        Those of `photo_of`. UsageError: a box leaves the photo; more views than a sheet holds.
    """
    photo = photo_of(store, shown["image"], source)
    facts, notes = shown["store"], []
    size, interpolation = UNKNOWN_INPUT
    if facts["input_size"] is None:
        notes.append(
            f"The store does not say what its teacher saw: crops are drawn at {size[0]} x "
            f"{size[1]}, {interpolation}."
        )
    else:
        size, interpolation = tuple(facts["input_size"]), facts["interpolation"]
    teachers = [teacher for member in store.members for teacher in member.manifest.teachers]
    inputs = {(tuple(teacher["input_size"]), teacher["interpolation"]) for teacher in teachers}
    if len(inputs) > 1:
        notes.append("The teachers saw crops of different sizes; these are the first one's.")
    if len(store.members) > 1 and shown["ferkd"]["ensemble"] != "mean":
        notes.append("FerKD judges each teacher's label by itself; the labels here are the mean.")
    crops = None
    if shown["views"] and all(view["box"] is not None for view in shown["views"]):
        views = store.views(shown["image"], [view["view"] for view in shown["views"]])
        if is_mixed(store):
            notes.append("Views are mixed with others: the ground truth is this photo's alone.")
        partners = PartnerPhotos(
            partial(photo_of, store, source=source), partial(partner_views, store)
        )
        crops = render(photo, views, size, interpolation, partners=partners)
    else:
        notes.append("The store does not say which crops its labels belong to.")
    return contact_sheet(shown, photo, crops, notes)


def photo_of(store: LabelReader, image: int, source: ImageSource) -> Image.Image:
    """The photo of an image of a store, upright and RGB.

    Args:
        store: whose. image: by position. source: the photos.

    Raises:
        NotFoundError: the source lacks it. SourceError, DecodeError: it cannot be read or decoded.
        MismatchError: it is another file, or of another size, than what was labelled.
    """
    key = store.keys[image]
    places = [place for place, other in enumerate(source.keys) if other == key]
    if not places:
        near = did_you_mean(key, source.keys)
        raise NotFoundError(
            f"{source.path} has no photo {key!r}, which was labelled: give the photos that the "
            f"store was made from{'; ' + near if near else '.'}",
            arguments=("photos",),
        )
    data = source.read(places[0])
    stored = int(store.image_digests([image])[0])
    if not is_same_file(data, stored):
        raise MismatchError(
            f"the photo {key!r} is another file than the one that was labelled (digest "
            f"{content_digest(data):016x}, expected {stored:016x}): give the photos that the store "
            "was made from.",
            arguments=("photos",),
        )
    photo = decode(data, str(source.path_of(places[0])))
    width, height = (int(sides[0]) for sides in store.sizes([image]))
    if not is_same_size(photo.size, (width, height)):
        raise MismatchError(
            f"the photo {key!r} is {photo.width} x {photo.height} pixels and {width} x {height} "
            "was labelled: give the photos that the store was made from.",
            arguments=("photos",),
        )
    return photo
