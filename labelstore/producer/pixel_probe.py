"""The pixel probe: digests of a few views' pixels, by which another machine sees that it cuts the
same. No teacher is needed for it, nor torch."""

from __future__ import annotations

import contextlib
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

import labelstore
from labelstore.errors import DecodeError
from labelstore.images.decoding import decode
from labelstore.images.pixels import pixel_digest, render
from labelstore.producer.crops.partners import over_images
from labelstore.store.indexing import evenly_spaced
from labelstore.views.philox import hash_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy.typing as npt
    from PIL.Image import Image

    from labelstore.images.mixing.partners import PartnerPhotos
    from labelstore.images.sources.choose import ImageSource
    from labelstore.views.law import ViewLaw, Views

    Pixels = npt.NDArray[np.uint8]
    Shape = tuple[tuple[int, int], str]

__all__ = [
    "DECIDING_LIBRARIES",
    "installed_versions",
    "make_probe",
    "photo_and_views",
    "photo_at",
    "read_by_key",
    "replay_probe",
]

DECIDING_LIBRARIES = ("Pillow", "torch", "timm")
"""Distributions that decide pixels and labels, beside this one."""

PROBE_IMAGES, PROBE_VIEWS = 4, 2
"""How many images, and views of each, the manifest's probes hold."""

STAGE_VIEWS, STAGE_VIEWS_SEEN = 6, 64
"""Views that are added of each probed image at most, chosen among so many first ones, for
operations of stages that no probed view has yet."""

PROBE_TRIES = 100
"""Images that are opened at most to find readable ones for the probes."""


def installed_versions() -> dict[str, str | None]:
    """Versions of the libraries that decide pixels and labels; None where one is not installed."""
    versions: dict[str, str | None] = {"labelstore": labelstore.__version__}
    for name in DECIDING_LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def make_probe(
    source: ImageSource, shape: Shape, law: ViewLaw, num_views: int
) -> tuple[dict[str, Any], ...]:
    """Digests of a few views of readable images that are spread over the whole source.

    Where views have stages, there are more of them: as many as show each operation once.

    Args:
        source: the images. law: of the views, ``num_views`` of each image; views may be mixed with
            those of others of these images.
        shape: (height, width) of the teacher's input, and its interpolation.

    Returns:
        ``{"key", "view", "digest"}`` each.
    """
    law, partners = over_images(law, source.keys, partial(photo_at, source))
    seen: set[tuple[int, int]] = set()
    entries: list[dict[str, Any]] = []
    starts = evenly_spaced(len(source), PROBE_IMAGES).tolist()
    for start, stop in zip(starts, [*starts[1:], len(source)], strict=True):
        # A source whose images are mostly broken has a problem that the run itself reports.
        for image in range(start, min(stop, start + PROBE_TRIES // PROBE_IMAGES)):
            key = source.keys[image]
            try:
                photo = photo_at(source, image)
                views = _probed_views(photo, key, law, num_views, seen)
                cuts = _crops(photo, key, views, law, shape, partners)
            except DecodeError:
                continue
            entries += [
                {"key": key, "view": view, "digest": pixel_digest(pixels)}
                for view, pixels in zip(views, cuts, strict=True)
            ]
            break
    return tuple(entries)


def _probed_views(
    photo: Image, key: str, law: ViewLaw, num_views: int, seen: set[tuple[int, int]]
) -> list[int]:
    """The views of an image to probe: its first ones, and those that have operations of stages
    which are not ``seen`` yet, as (stage, code); these are added to it."""
    views = list(range(min(PROBE_VIEWS, num_views)))
    if not law.stages:
        return views
    numbers = range(min(STAGE_VIEWS_SEEN, num_views))
    stages = _views_of(photo, key, numbers, law).stages
    has = [
        {(place, int(code)) for place, stage in enumerate(stages) for code in stage.operation[view]}
        for view in numbers
    ]
    seen.update(*(has[view] for view in views))
    for _ in range(STAGE_VIEWS):
        best = max(numbers, key=lambda view: len(has[view] - seen))
        if not has[best] - seen:
            break
        views.append(best)
        seen |= has[best]
    return sorted(views)


def read_by_key(
    source: ImageSource, places: Mapping[str, int] | None = None
) -> Callable[[str], Image | None]:
    """What decodes a source's photo of a key; it gives None where there is none.

    Args:
        source: the images. places: where each key is; by default the source's own.
    """
    if places is None:
        places = {key: place for place, key in enumerate(source.keys)}

    def photo_of(key: str) -> Image | None:
        return photo_at(source, places[key]) if key in places else None

    return photo_of


def replay_probe(
    probe: Sequence[Mapping[str, Any]],
    photo_of: Callable[[str], Image | None],
    law: ViewLaw,
    shape: Shape,
    keys: Sequence[str] = (),
) -> tuple[list[str], list[Pixels | None]]:
    """Cut the probed views again.

    Args:
        probe: of a manifest.
        photo_of: the upright RGB photo of a key, or None.
        law: the store's view law.
        shape: (height, width) of the teacher's input, and its interpolation.
        keys: of all the store's images, in order, where its views are mixed.

    Returns:
        Keys of the images whose pixels come out differently on this machine, or that have no photo
        (or their partners have none), once for each view; and the (height, width, 3) uint8 pixels
        of each entry, None where there is no photo.
    """

    def by_position(image: int) -> Image:
        photo = photo_of(keys[image])
        if photo is None:
            raise DecodeError(f"there is no photo {keys[image]!r}, with which views are mixed.")
        return photo

    law, partners = over_images(law, keys, by_position)
    views: dict[str, list[int]] = {}
    for entry in probe:
        views.setdefault(entry["key"], []).append(entry["view"])
    cuts: dict[tuple[str, int], Pixels] = {}
    for key, numbers in views.items():
        photo = photo_of(key)
        if photo is None:
            continue
        for view in numbers:
            with contextlib.suppress(DecodeError):
                cuts[key, view] = _crops(photo, key, [view], law, shape, partners)[0]
    pixels = [cuts.get((entry["key"], entry["view"])) for entry in probe]
    other = [
        entry["key"]
        for entry, here in zip(probe, pixels, strict=True)
        if here is None or pixel_digest(here) != entry["digest"]
    ]
    return other, pixels


def photo_and_views(
    source: ImageSource, image: int, views: Iterable[int], law: ViewLaw
) -> tuple[Image, Views]:
    """An image, decoded upright, and where views of it lie."""
    photo = photo_at(source, image)
    return photo, _views_of(photo, source.keys[image], views, law)


def photo_at(source: ImageSource, image: int) -> Image:
    """An image of a source, decoded upright."""
    return decode(source.read(image), str(source.path_of(image)))


def _views_of(photo: Image, key: str, views: Iterable[int], law: ViewLaw) -> Views:
    return law(hash_keys([key]), np.array(list(views)), *photo.size)


def _crops(
    photo: Image,
    key: str,
    views: Iterable[int],
    law: ViewLaw,
    shape: Shape,
    partners: PartnerPhotos | None,
) -> Pixels:
    """(n, height, width, 3) uint8 pixels of n views of one photo."""
    return render(photo, _views_of(photo, key, views, law), *shape, partners=partners)
