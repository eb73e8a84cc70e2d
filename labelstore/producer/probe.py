"""Probes: a few views' pixels and what the teacher says of them, kept in the manifest.

By the pixels' digests another machine sees that it cuts the same, by the teacher's answers that it
runs the same network in the same way: a digest of the weights says nothing of the code around them.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

import labelstore
from labelstore.errors import CorruptError, DecodeError, MismatchError
from labelstore.format.manifest import LOGITS_PROBE
from labelstore.images.pixels import content_digest, decode, pixel_digest, render
from labelstore.images.resize_on_device import resize_boxes
from labelstore.producer.crops import Shape, shape_of
from labelstore.store.indexing import evenly_spaced
from labelstore.teachers.device_memory import place_photo
from labelstore.teachers.forward import log_probabilities
from labelstore.views.law import ViewLaw
from labelstore.views.philox import hash_keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from PIL.Image import Image

    from labelstore.format.manifest import Manifest
    from labelstore.images.preprocessing import Preprocessing
    from labelstore.images.sources.choose import ImageSource
    from labelstore.store.store import Store
    from labelstore.teachers.teacher import Teacher
    from labelstore.views.law import Views

    Pixels = npt.NDArray[np.uint8]

__all__ = [
    "check_description",
    "check_device_resize",
    "library_versions",
    "make_probe",
    "other_photo",
    "prove",
    "replay_probe",
]

PROBE_IMAGES, PROBE_VIEWS = 4, 2
"""How many images, and views of each, the manifest's probes hold."""

PROBE_TRIES = 100
"""Images that are opened at most to find readable ones for the probes."""

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
    others = {name: metadata.version(name) for name in ("Pillow", "torch", "timm")}
    return {"labelstore": labelstore.__version__, **others}


def make_probe(
    source: ImageSource, preprocessing: Preprocessing, law: ViewLaw, num_views: int
) -> tuple[dict[str, Any], ...]:
    """Digests of a few views of readable images that are spread over the whole source.

    Returns:
        ``{"key", "view", "digest"}`` each.
    """
    shape = shape_of(preprocessing)
    views = range(min(PROBE_VIEWS, num_views))
    entries: list[dict[str, Any]] = []
    starts = evenly_spaced(len(source), PROBE_IMAGES).tolist()
    for start, stop in zip(starts, [*starts[1:], len(source)], strict=True):
        # A source whose images are mostly broken has a problem that the run itself reports.
        for image in range(start, min(stop, start + PROBE_TRIES // PROBE_IMAGES)):
            try:
                cuts = _crops(source, image, views, law, shape)
            except DecodeError:
                continue
            entries += [
                {"key": source.keys[image], "view": view, "digest": pixel_digest(pixels)}
                for view, pixels in zip(views, cuts, strict=True)
            ]
            break
    return tuple(entries)


def replay_probe(
    probe: Sequence[Mapping[str, Any]], source: ImageSource, law: ViewLaw, shape: Shape
) -> tuple[list[str], list[Pixels | None]]:
    """Cut the probed views again.

    Args:
        probe: of a manifest. source: the images. law: the store's view law.
        shape: (height, width) of the teacher's input, and its interpolation.

    Returns:
        Keys of the images whose pixels come out differently on this machine, or that the source
        lacks; and the (height, width, 3) uint8 pixels of each entry, None where it lacks the image.
    """
    rows = {key: row for row, key in enumerate(source.keys)}
    views: dict[str, list[int]] = {}
    for entry in probe:
        views.setdefault(entry["key"], []).append(entry["view"])
    cuts: dict[tuple[str, int], Pixels] = {}
    for key, numbers in views.items():
        if key in rows:
            crops = _crops(source, rows[key], numbers, law, shape)
            cuts |= {(key, view): pixels for view, pixels in zip(numbers, crops, strict=True)}
    pixels = [cuts.get((entry["key"], entry["view"])) for entry in probe]
    other = [
        entry["key"]
        for entry, here in zip(probe, pixels, strict=True)
        if here is None or pixel_digest(here) != entry["digest"]
    ]
    return other, pixels


def _crops(
    source: ImageSource, image: int, views: Iterable[int], law: ViewLaw, shape: Shape
) -> Pixels:
    """(n, height, width, 3) uint8 pixels of n views of one image."""
    return render(*_photo_and_views(source, image, views, law), *shape)


def _photo_and_views(
    source: ImageSource, image: int, views: Iterable[int], law: ViewLaw
) -> tuple[Image, Views]:
    """An image, decoded upright, and where views of it lie."""
    photo = decode(source.read(image), str(source.path_of(image)))
    return photo, law(hash_keys([source.keys[image]]), np.array(list(views)), *photo.size)


def prove(
    source: ImageSource, teacher: Teacher, manifest: Manifest, path: Path | str
) -> tuple[dict[str, Any], ...]:
    """Prove that photos, image library and teacher are those of a manifest.

    Args:
        source: the images.
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
    other, pixels = replay_probe(manifest.probe, source, manifest.law, shape)
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
            and content_digest(source.read(places[key])) != stored
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
        photo, views = _photo_and_views(source, rows[entry["key"]], [entry["view"]], manifest.law)
        placed = place_photo(np.array(photo), teacher.place)
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
