"""Where a store and its photos came apart: names, files, classes, pixels, versions.

A label belongs to a crop of a file. When the file was exchanged, resized or renamed since, nothing
fails by itself as long as the sizes fit: so every file is compared, and all that differs is named.
No teacher is needed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import LabelStoreError, SourceError, UsageError
from labelstore.images.ground_truth.targets import resolve_targets
from labelstore.operations.inspection.diagnosis.photo_differences import PhotoComparison
from labelstore.operations.inspection.diagnosis.slow_ways import tell_slow_ways
from labelstore.operations.inspection.findings import NAMED, Finding, Findings
from labelstore.producer.pixel_probe import installed_versions, read_by_key, replay_probe
from labelstore.store.store import opened
from labelstore.teachers.class_names import names_of
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import numpy.typing as npt

    from labelstore.images.sources.choose import ImageSource
    from labelstore.producer.progress import Progress
    from labelstore.store.store import Store

__all__ = ["DOCTOR_VERSION", "diagnose"]

DOCTOR_VERSION = 1
"""Of the report."""


def diagnose(
    store: Store | str | os.PathLike[str],
    source: ImageSource,
    *,
    class_map: Mapping[str, int | str] | None = None,
    workers: int = 1,
    limit: int = NAMED,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare a store with the photos that it was made from, and name what differs.

    Args:
        store: open, or as a path or URL; of one that is still being made, what is committed.
        source: the photos. class_map: that the store was made with, if there was one.
        workers: threads that read. limit: names that are told of each kind of finding.
        progress: told of each photo that was read.

    Returns:
        The report, ready for JSON (``schemas/doctor.schema.json``).

    Raises:
        UsageError: no worker, or a negative limit. StoreError: the store cannot be read.
        SourceError: there is no memory.
    """
    if workers < 1 or limit < 0:
        raise UsageError(
            f"there are {workers} workers and {limit} names are to be told, expected at least 1 "
            "and 0."
        )
    started = time.perf_counter()
    store = opened(store)
    findings = Findings(limit)
    photos = PhotoComparison(store, source, findings)
    photos.run(workers, progress)
    _compare_classes(store, source, photos.pairs.places, class_map, findings)
    probe = _replay_probe(store, source, photos, findings)
    versions = _compare_versions(store.manifest.producer, probe, findings)
    _tell_incomplete(store, photos, findings)
    tell_slow_ways(store, findings)
    return {
        "doctor_version": DOCTOR_VERSION,
        "store": {
            "path": str(store.path),
            "id": store.manifest.id,
            "images": store.num_images,
            "labelled": int(photos.stored.labelled.sum()),
        },
        "photos": str(source.path),
        "count": len(source),
        "compared": photos.compared,
        "probe": probe,
        "versions": versions,
        "seconds": round(time.perf_counter() - started, 3),
        "workers": workers,
        "findings": [finding.to_json() for finding in findings.all()],
        "healthy": all(finding.weight == "note" for finding in findings.all()),
    }


def _compare_classes(
    store: Store,
    source: ImageSource,
    places: npt.NDArray[np.int64],
    class_map: Mapping[str, int | str] | None,
    findings: Findings,
) -> None:
    """Compare the store's ground truth with what the source's classes give."""
    known = np.flatnonzero((places >= 0) & (store.targets >= 0))
    if not known.size:
        return
    manifest = store.manifest
    try:
        targets = resolve_targets(
            source,
            num_classes=manifest.num_classes,
            class_names=manifest.class_names,
            class_map=class_map,
            called=names_of(manifest),
        )
    except UsageError:
        raise
    except LabelStoreError as error:
        words = (
            f"classes were not compared: {str(error).rstrip('.')}",
            "give the class map that the store was made with",
        )
        findings.of("unknown-classes", "note", words, noun="", arguments=("class_map",)).add(
            str(source.path)
        )
        return
    stored, here = store.targets[known], targets[places[known]]
    differing = (here >= 0) & (stored != here)
    by_class: dict[str | None, list[int]] = {}
    for number, image in enumerate(known.tolist()):
        by_class.setdefault(source.class_name(int(places[image])), []).append(number)
    for name, numbers in by_class.items():
        apart = [number for number in numbers if differing[number]]
        whole = len(apart) == len(numbers) and len(set(stored[numbers].tolist())) == 1
        for number in apart[:1] if whole else apart:
            detail = (
                f"{_class(store, stored[number])} in the store, {_class(store, here[number])} by "
                "the source"
            )
            if whole:
                _order_finding(findings).add(str(name), detail)
            else:
                words = (
                    "have another class in the source than in the store",
                    "find out which is right; the store's ground truth is what FerKD and the "
                    "statistics use",
                )
                findings.of("class", "error", words).add(store.keys[int(known[number])], detail)


def _order_finding(findings: Findings) -> Finding:
    words = (
        "have another number in the store than by their names",
        "give the class map that the store was made with; if it was wrong, make the store anew "
        "with the right one: FerKD and the statistics use these numbers",
    )
    return findings.of("class-order", "error", words, noun="class", arguments=("class_map",))


def _class(store: Store, number: int) -> str:
    names = store.manifest.class_names
    return f"{number}" if names is None else f"{number} ({names[number]})"


def _replay_probe(
    store: Store, source: ImageSource, photos: PhotoComparison, findings: Findings
) -> dict[str, int] | None:
    """Cut the probed views of photos that are as they were; how many there are, and differ."""
    manifest = store.manifest
    places = {
        store.keys[image]: int(photos.pairs.places[image])
        for image in np.flatnonzero(photos.right).tolist()
    }
    probe = [entry for entry in manifest.probe if entry["key"] in places]
    if not probe or not manifest.teachers or not isinstance(manifest.law, ViewLaw):
        return None
    height, width = manifest.teachers[0]["input_size"]
    shape = ((height, width), str(manifest.teachers[0]["interpolation"]))
    try:
        photo_of = read_by_key(source, places)
        other, _ = replay_probe(probe, photo_of, manifest.law, shape, store.keys)
    except SourceError as error:
        words = (f"the pixels were not compared: {str(error).rstrip('.')}", "ask again")
        findings.of("unknown-pixels", "note", words, noun="").add(str(source.path))
        return None
    here, stored = installed_versions()["Pillow"], manifest.producer.get("Pillow", "unknown")
    for key in dict.fromkeys(other):
        words = (
            "have views of other pixels here than the teacher saw",
            f"install Pillow {stored}, with which the store was made (here is {here}), if the file "
            "is the same; or train all the same (check_pixels=False)",
        )
        findings.of("pixels", "error", words).add(key, f"{other.count(key)} probed views")
    return {"views": len(probe), "differing": len(other)}


def _compare_versions(
    stored: Mapping[str, str], probe: dict[str, int] | None, findings: Findings
) -> dict[str, Any]:
    """Compare the libraries that made the store with those that are installed."""
    versions = {
        name: {"store": stored[name], "here": here}
        for name, here in installed_versions().items()
        if name in stored
    }
    mend = "nothing for training; to go on with the store, install those that made it"
    if probe is not None and not probe["differing"]:
        mend = f"nothing for training, as the probed pixels are the same; {mend[22:]}"
    for name, pair in versions.items():
        if pair["store"] != pair["here"]:
            words = ("are of another version than those that made the store", mend)
            detail = f"{pair['store']} made it, {pair['here'] or 'none'} is here"
            findings.of("versions", "note", words, noun="library").add(name, detail)
    return versions


def _tell_incomplete(store: Store, photos: PhotoComparison, findings: Findings) -> None:
    """What the store does not know, or does not have yet."""
    uncommitted = ~(photos.stored.labelled | photos.stored.unlabelled)
    for image in np.flatnonzero(uncommitted).tolist():
        words = (
            "are not labelled yet, and were not compared",
            "the command that makes the store goes on",
        )
        findings.of("incomplete", "note", words).add(store.keys[image])
    if photos.compared["unknown"]:
        words = (
            "have neither a digest nor a size in the store: nothing could be compared",
            "give digests and sizes when a store is written",
        )
        finding = findings.of("unknown-photos", "note", words)
        finding.count = photos.compared["unknown"]
