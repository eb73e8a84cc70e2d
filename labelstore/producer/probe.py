"""Probes: a few views' pixels and what the teacher says of them, kept in the manifest.

By the pixels' digests another machine sees that it cuts the same, by the teacher's answers that it
runs the same network in the same way: a digest of the weights says nothing of the code around them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import CorruptError, MismatchError
from labelstore.format.manifest import LOGITS_PROBE
from labelstore.images.photo_file import is_same_file
from labelstore.images.pixels import render
from labelstore.images.resampling import pixels_of
from labelstore.images.resize_on_device import resize_boxes
from labelstore.producer.crops.cutter import shape_of
from labelstore.producer.pixel_probe import (
    installed_versions,
    photo_and_views,
    read_by_key,
    replay_probe,
)
from labelstore.store.indexing import evenly_spaced
from labelstore.teachers.device_memory import place_photo
from labelstore.teachers.forward import log_probabilities
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest
    from labelstore.images.sources.choose import ImageSource
    from labelstore.store.store import Store
    from labelstore.teachers.teacher import Teacher

__all__ = [
    "check_description",
    "check_device_resize",
    "library_versions",
    "other_photo",
    "prove",
]

PROBE_CLASSES = 5
"""Classes of each probed view whose log-probabilities the manifest holds."""

LOG_PROB_DIGITS = 3
"""Decimals of these."""

CHECKED_PHOTOS = 8
"""Committed photos whose files are compared before a store is gone on with."""

TOLERANCES = {"fp32": (0.001, 0.0002), "fp16": (0.01, 0.004), "bf16": (0.05, 0.02)}
"""By precision: how far apart a view's log-probabilities may be, and how much more for each unit of
their mean, which grows with the spread of the logits. Other batch sizes, numbers of threads and
models of one kind of device round otherwise; a compiled network in fp32, or one on MPS, has the
tolerance of fp16. Another kind of device is refused before."""

_HOW = {"resize", LOGITS_PROBE}
"""What a manifest's teacher holds beside ``Teacher.describe``."""


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide pixels and labels."""
    versions = installed_versions()
    return {name: version for name, version in versions.items() if version is not None}


def prove(
    source: ImageSource, teacher: Teacher, manifest: Manifest, path: Path | str
) -> tuple[dict[str, Any], ...]:
    """Prove that photos, image library and teacher are those of a manifest.

    Args:
        source: the images; of a store whose views are mixed, in its order.
        teacher: on the kind of device that the manifest names.
        manifest: of the store; where it does not say what the teacher says of the probed views
            (stores of older releases, and one that is about to be made), pixels alone are compared.
        path: of the store, for messages.

    Returns:
        What the teacher says of the probed views, for the manifest of a store that is about to be
        made: ``{"key", "view", "log_probs", "mean_log_prob"}`` each: pairs of class and natural
        log-probability at temperature 1 of the largest classes, and the mean over all classes. A
        view whose logits are not finite has none, nor has a teacher that is not deterministic.

    Raises:
        MismatchError: pixels, or what the teacher says, differ. SourceError: a probed photo cannot
            be read. TeacherError: the network fails.
    """
    if not isinstance(manifest.law, ViewLaw):
        return ()
    shape = shape_of(teacher.preprocessing)
    other, pixels = replay_probe(
        manifest.probe, read_by_key(source), manifest.law, shape, source.keys
    )
    if other:
        raise MismatchError(
            f"{path} was begun with other pixels: views of {other[0]!r} come out differently "
            f"here (the store's producer had Pillow {manifest.producer.get('Pillow')}): go on "
            "with the same photos and that Pillow, or make a new store."
        )
    if not manifest.probe or not teacher.deterministic:
        return ()
    log_probs = log_probabilities(teacher, np.stack([view for view in pixels if view is not None]))
    _check_logits(log_probs, manifest, teacher.describe(), path)
    count = min(PROBE_CLASSES, teacher.num_classes)
    return tuple(
        {
            "key": entry["key"],
            "view": entry["view"],
            "log_probs": [[number, _rounded(row[number])] for number in largest.tolist()],
            "mean_log_prob": _rounded(row.mean()),
        }
        for entry, row in zip(manifest.probe, log_probs, strict=True)
        if np.isfinite(row).all()
        for largest in [np.argsort(-row, kind="stable")[:count]]
    )


def _rounded(value: float) -> float:
    # So that a last bit seldom changes a store's id; and no -0.0, whose JSON is not that of 0.0.
    return round(float(value), LOG_PROB_DIGITS) + 0.0


def _check_logits(
    log_probs: npt.NDArray[np.float64],
    manifest: Manifest,
    here: Mapping[str, Any],
    path: Path | str,
) -> None:
    """Compare what a teacher says of the probed views with what the manifest says."""
    teacher = manifest.teacher or {}
    rows = {(entry["key"], entry["view"]): row for row, entry in enumerate(manifest.probe)}
    absolute, relative = TOLERANCES[_rounding(here)]
    for entry in teacher.get(LOGITS_PROBE, ()):
        row = rows.get((entry["key"], entry["view"]))
        if row is None:
            continue
        tolerance = absolute + relative * abs(entry["mean_log_prob"])
        ours = log_probs[row]
        pairs = [
            (f"of class {number}", stored, ours[number] if number < len(ours) else np.nan)
            for number, stored in entry["log_probs"]
        ]
        pairs.append(("on average", entry["mean_log_prob"], ours.mean()))
        other = [pair for pair in pairs if not abs(pair[2] - pair[1]) <= tolerance]  # NaN, too
        if not other:
            continue
        what, stored, now = other[0]
        raise MismatchError(
            f"{path} was begun with a teacher that does something else: of view {entry['view']} of "
            f"{entry['key']!r} its log-probability {what} was {stored:.3f} and is {now:.3f} "
            f"here, expected the same within {tolerance:.3f}, though the weights "
            "are the same: go on with the code and settings that the store was begun with, or make "
            "a new store."
        )


def _rounding(teacher: Mapping[str, Any]) -> str:
    """Which of ``TOLERANCES`` a teacher needs."""
    precision = str(teacher["precision"])
    loose = teacher.get("compiled") or teacher["device"] == "mps"
    return "fp16" if loose and precision == "fp32" else precision


def check_description(
    here: Mapping[str, Any],
    stored: Mapping[str, Any],
    path: Path | str,
    but: frozenset[str] = frozenset(),
) -> None:
    """Refuse a teacher that is not the one that a manifest describes.

    Args:
        here: what ``Teacher.describe`` says.
        stored: the manifest's; what it says of crops and probes is not compared.
        path: of the store, for the message. but: other members that are not compared.

    Raises:
        MismatchError: which member differs.
    """
    for name in sorted({*here, *stored} - _HOW - but):
        if here.get(name) != stored.get(name):
            raise MismatchError(
                f"the teacher's {name.replace('_', ' ')} is {here.get(name)}, {path} was made with "
                f"{stored.get(name)}: give the same."
            )


def other_photo(source: ImageSource, store: Store) -> str | None:
    """Compare some of a store's photos, spread over all that are committed, with a source's files.

    Nothing is decoded, and what the source lacks is passed over.

    Returns:
        The key of the first photo whose file is another than the one that was labelled.
    """
    manifest = store.manifest
    committed = sorted(set(range(manifest.num_blocks)) - set(store.missing_blocks()))
    runs = [manifest.block_slice(block) for block in committed]
    ends = np.cumsum([run.stop - run.start for run in runs])
    places = {key: place for place, key in enumerate(source.keys)}
    for number in evenly_spaced(int(ends[-1]), CHECKED_PHOTOS).tolist() if runs else []:
        run = int(np.searchsorted(ends, number, side="right"))
        image = runs[run].stop - int(ends[run]) + number
        try:
            key, stored = store.keys[image], int(store.image_digests(image))
            width, _ = store.sizes(image)
        except CorruptError:  # which reading and verify name
            continue
        # One that could not be decoded has no size, nor labels: it may have been mended since.
        if (
            stored
            and int(width) > 0
            and key in places
            and not is_same_file(source.read(places[key]), stored)
        ):
            return str(key)
    return None


def check_device_resize(
    source: ImageSource, teacher: Teacher, manifest: Manifest, path: Path | str
) -> None:
    """Refuse to resize on a device that does not make the pixels of the manifest's probe.

    Raises:
        MismatchError: how many values differ, and by how much at most.
    """
    shape = shape_of(teacher.preprocessing)
    rows = {key: row for row, key in enumerate(source.keys)}
    different = values = largest = 0
    for entry in manifest.probe:
        if entry["key"] not in rows or not isinstance(manifest.law, ViewLaw):
            continue
        photo, views = photo_and_views(source, rows[entry["key"]], [entry["view"]], manifest.law)
        placed = place_photo(pixels_of(photo), teacher.place)
        resized = resize_boxes(placed, views.box, views.flip, *shape).cpu().numpy()
        apart = np.abs(resized.astype(np.int16) - render(photo, views, *shape))
        different += int((apart > 0).sum())
        largest = max(largest, int(apart.max()))
        values += apart.size
    if different:
        raise MismatchError(
            f"{path}: crops resized on {teacher.device} differ from Pillow's in {different} of "
            f"{values} values, by {largest} at most, so a student could not make the same: "
            "resize by workers (resize='workers').",
            arguments=("resize",),
        )
