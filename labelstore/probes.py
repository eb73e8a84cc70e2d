"""The pixel probe: digests of a few views, by which another machine sees that it cuts the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.device_resize import resize_boxes
from labelstore.errors import DecodeError, MismatchError
from labelstore.images import content_digest, cut, decode, pixel_digest
from labelstore.philox import hash_keys
from labelstore.staging import place_photo
from labelstore.store import Store
from labelstore.views import ViewLaw

if TYPE_CHECKING:
    from pathlib import Path

    from labelstore.inference import Teacher
    from labelstore.manifest import Manifest
    from labelstore.ray_engine import Described
    from labelstore.sources import ImageSource

__all__ = ["check_device_resize", "check_resumable", "make_probe", "replay_probe"]

PROBE_IMAGES, PROBE_VIEWS = 4, 2
"""How many images, and views of each, the manifest's pixel probe holds."""


def replay_probe(
    probe: tuple[Any, ...], source: ImageSource, law: ViewLaw, size: tuple[int, int], filter: str
) -> list[str]:
    """Keys of the probe's images whose pixels come out differently on this machine.

    Args:
        probe: of a manifest.
        source: the images.
        law: the store's view law.
        size: (height, width) of the teacher's input; filter: its interpolation.
    """
    rows = {key: row for row, key in enumerate(source.keys)}
    return [
        entry["key"]
        for entry in probe
        if entry["key"] not in rows
        or _view_digest(source, rows[entry["key"]], entry["view"], law, size, filter)
        != entry["digest"]
    ]


def make_probe(
    source: ImageSource, teacher: Teacher | Described, law: ViewLaw, num_views: int
) -> tuple[dict[str, Any], ...]:
    """Digests of a few views of the first readable images."""
    preprocessing = teacher.preprocessing
    entries: list[dict[str, Any]] = []
    # A source whose first hundred images are all broken has a problem that the run itself reports.
    for image in range(min(len(source), 100)):
        if len(entries) >= PROBE_IMAGES * min(PROBE_VIEWS, num_views):
            break
        try:
            entries += [
                {
                    "key": source.keys[image],
                    "view": view,
                    "digest": _view_digest(
                        source,
                        image,
                        view,
                        law,
                        preprocessing.input_size,
                        preprocessing.interpolation,
                    ),
                }
                for view in range(min(PROBE_VIEWS, num_views))
            ]
        except DecodeError:
            continue
    return tuple(entries)


def _view_digest(
    source: ImageSource, image: int, view: int, law: ViewLaw, size: tuple[int, int], filter: str
) -> str:
    upright = decode(source.read(image), str(source.path_of(image)))
    hashes = hash_keys([source.keys[image]])
    geometry = law(hashes, view, upright.width, upright.height)
    box = geometry.box[0].tolist()
    return pixel_digest(cut(upright, box, bool(geometry.flip[0]), size, filter))


def check_resumable(
    source: ImageSource, teacher: Teacher | Described, manifest: Manifest, path: Path | str
) -> None:
    """Refuse to go on when the photos or the pixels are not those that the store began with."""
    preprocessing = teacher.preprocessing
    if isinstance(manifest.law, ViewLaw):
        other = replay_probe(
            manifest.probe,
            source,
            manifest.law,
            preprocessing.input_size,
            preprocessing.interpolation,
        )
        if other:
            raise MismatchError(
                f"{path} was begun with other pixels: views of {other[0]!r} come out differently "
                f"here (the store's producer had Pillow {manifest.producer.get('Pillow')}): go on "
                "with the same photos and that Pillow, or make a new store."
            )
    store = Store(path)
    committed = sorted(set(range(manifest.num_blocks)) - set(store.missing_blocks()))
    # One image of each of a few blocks, by its file's digest: nothing is decoded.
    for block in committed[:: max(1, len(committed) // 8)]:
        image = manifest.block_slice(block).start
        stored = int(store.image_digests(image))
        if stored and content_digest(source.read(image)) != stored:
            raise MismatchError(
                f"{path} was begun with another file {source.keys[image]!r}: give the source that "
                "it was begun with, or make a new store."
            )


def check_device_resize(
    source: ImageSource, teacher: Teacher, manifest: Manifest, path: Path | str
) -> None:
    """Refuse to resize on a device that does not make the pixels of the manifest's probe.

    Raises:
        MismatchError: how many values differ, and by how much at most.
    """
    preprocessing = teacher.preprocessing
    size, interpolation = preprocessing.input_size, preprocessing.interpolation
    rows = {key: row for row, key in enumerate(source.keys)}
    different = values = largest = 0
    for entry in manifest.probe:
        if entry["key"] not in rows or not isinstance(manifest.law, ViewLaw):
            continue
        row = rows[entry["key"]]
        upright = decode(source.read(row), str(source.path_of(row)))
        geometry = manifest.law(
            hash_keys([entry["key"]]), entry["view"], upright.width, upright.height
        )
        expected = cut(
            upright, geometry.box[0].tolist(), bool(geometry.flip[0]), size, interpolation
        )
        photo = place_photo(np.array(upright), teacher.place)
        made = resize_boxes(photo, geometry.box, geometry.flip, size, interpolation)[0]
        apart = np.abs(made.cpu().numpy().astype(np.int16) - expected)
        different += int((apart > 0).sum())
        largest = max(largest, int(apart.max()))
        values += apart.size
    if different:
        raise MismatchError(
            f"{path}: crops resized on {teacher.device} differ from Pillow's in {different} of "
            f"{values} values, by {largest} at most, so a student could not make the same: use "
            "--resize workers."
        )
