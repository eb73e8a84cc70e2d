"""Where a store and its photos came apart: names, files, classes, pixels, versions.

A label belongs to a crop of a file. When the file was exchanged, resized or renamed since, nothing
fails by itself as long as the sizes fit: so every file is compared, and all that differs is named.
No teacher is needed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from labelstore.errors import DecodeError, LabelStoreError, SourceError, UsageError
from labelstore.images.every_photo import every_photo
from labelstore.images.ground_truth import resolve_targets
from labelstore.images.photo_file import decode_photo, is_same_size, read_size
from labelstore.images.pixels import content_digest
from labelstore.images.sources.tar import TarSource
from labelstore.operations.inspection.findings import NAMED, Finding, short_reason
from labelstore.operations.inspection.key_pairs import alike_keys, other_root, pair_keys
from labelstore.producer.pixel_probe import installed_versions, read_by_key, replay_probe
from labelstore.store.store import opened
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from labelstore.images.sources.choose import ImageSource
    from labelstore.operations.inspection.findings import Weight
    from labelstore.operations.inspection.key_pairs import Cause, KeyPairs
    from labelstore.producer.progress import Progress
    from labelstore.store.store import Store

__all__ = ["DOCTOR_VERSION", "diagnose"]

DOCTOR_VERSION = 1
"""Of the report."""

_MISSING: dict[Cause | None, tuple[str, str]] = {
    None: (
        "are missing from the source",
        "restore them; training leaves out what is not there, and warns",
    ),
    "normal-form": (
        "are missing, and there under a name of other characters of the same look (Unicode's NFC "
        "and NFD)",
        "give the files the store's names, and copy them by a tool that keeps names",
    ),
    "case": (
        "are missing, and there under a name of other case",
        "give the files the store's names: a photo's name decides its crops",
    ),
    "extension": (
        "are missing, and there with another suffix",
        "restore the files that were labelled: those that were converted have other pixels",
    ),
    "folder": (
        "are missing, and a file of the same name lies in another folder",
        "move the files, or give the folder its old name: a photo's path decides its crops",
    ),
    "renamed": (
        "are missing, and the same file has another name",
        "give the files the store's names: a photo's name decides its crops",
    ),
}
"""What is said of missing photos, by cause, and the mend."""


class _Seen(NamedTuple):
    """What was seen of one photo."""

    digest: int
    """0 where there are no bytes."""
    size: tuple[int, int] | None
    """None where it was not needed, or cannot be told."""
    problem: Literal["unreadable", "undecodable"] | None = None
    reason: str = ""


class _Stored(NamedTuple):
    """What a store knows of its images, by position."""

    digests: Any
    """uint64, 0 unknown."""
    sizes: Any
    """(num_images, 2) width and height, not positive where unknown."""
    labelled: Any
    """bool."""
    unlabelled: Any
    """bool: committed, and could not be decoded."""

    @classmethod
    def of(cls, store: Store) -> _Stored:
        everything = np.arange(store.num_images)
        return cls(
            store.image_digests(everything),
            np.stack(store.sizes(everything), axis=1),
            store.labelled(),
            store.unreadable_rows(),
        )


def diagnose(
    store: Store | str | os.PathLike[str],
    source: ImageSource,
    *,
    class_map: Mapping[str, int] | None = None,
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
    visit = _Visit(store, source, limit)
    visit.compare_files(workers, progress)
    visit.compare_classes(class_map)
    probe = visit.replay_probe()
    versions = visit.compare_versions(probe)
    visit.tell_incomplete()
    return {
        "doctor_version": DOCTOR_VERSION,
        "store": {
            "path": str(store.path),
            "id": store.manifest.id,
            "images": store.num_images,
            "labelled": int(visit.stored.labelled.sum()),
        },
        "photos": str(source.path),
        "count": len(source),
        "compared": visit.compared,
        "probe": probe,
        "versions": versions,
        "seconds": round(time.perf_counter() - started, 3),
        "workers": workers,
        "findings": [finding.to_json() for finding in visit.findings()],
        "healthy": all(finding.weight == "note" for finding in visit.findings()),
    }


class _Visit:
    """A store and a source that are compared; findings gather."""

    def __init__(self, store: Store, source: ImageSource, limit: int) -> None:
        self.store, self.source = store, source
        self.stored = _Stored.of(store)
        self.pairs: KeyPairs = pair_keys(store.keys, source.keys, isinstance(source, TarSource))
        self.compared = {"digest": 0, "size": 0, "unknown": 0}
        """Files that are as they were labelled, by what was compared; and those of which the store
        knows neither digest nor size."""
        self._limit = limit
        self._findings: dict[tuple[str, str | None], Finding] = {}
        self._right = np.zeros(store.num_images, dtype=bool)

    def findings(self) -> list[Finding]:
        """All that were found, errors first."""
        return sorted(self._findings.values(), key=lambda finding: finding.weight == "note")

    def _found(
        self,
        kind: str,
        weight: Weight,
        words: tuple[str, str],
        cause: str | None = None,
        noun: str = "photo",
        arguments: tuple[str, ...] = (),
    ) -> Finding:
        """The finding of a kind and cause; ``words`` are its text and mend."""
        finding = Finding(kind, weight, *words, noun, cause, arguments, limit=self._limit)
        return self._findings.setdefault((kind, cause), finding)

    # Names and files

    def compare_files(self, workers: int, progress: Progress | None) -> None:
        """Read every photo that can be one of the store's, and compare it."""
        places = self.pairs.places
        images = np.full(len(self.source), -1, dtype=np.int64)
        images[places[places >= 0]] = np.flatnonzero(places >= 0)
        committed = self.stored.labelled | self.stored.unlabelled
        lacking = np.flatnonzero((places < 0) & committed)
        if self.pairs.without_suffix:
            self._found(
                "keys-without-suffix",
                "note",
                (
                    "have the store's keys without their suffixes, as samples of shards do",
                    "nothing with WebDatasetViews, which knows that; a data set of these photos "
                    "needs the store's keys",
                ),
            ).add(str(self.source.path))
        root = other_root(self.store.keys, self.source.keys) if (places < 0).all() else None
        if root is not None:
            self._tell_root(root.above, root.folder, lacking.tolist())
            return
        # What is nobody's may be what is missing.
        wanted = (images >= 0) & committed[images]
        if lacking.size:
            wanted[self.pairs.extra] = True
        if progress is not None:
            progress.resumed(int((~wanted).sum()))
        spare: dict[str, _Seen] = {}
        others: list[tuple[int, _Seen]] = []
        look = self._look_of(images)
        for place, seen in every_photo(np.flatnonzero(wanted).tolist(), look, workers):
            if progress is not None:
                progress.update(1, 1)
            image = int(images[place])
            if image < 0:
                spare[self.source.keys[place]] = seen
            elif self._is_right(image, seen):
                self._right[image] = True
            else:
                others.append((image, seen))
        self._tell_others(others)
        self._tell_missing(lacking.tolist(), spare)

    def _look_of(self, images: Any) -> Any:
        stored = self.stored

        def look(place: int) -> _Seen:
            image = int(images[place])
            try:
                data = self.source.read(place)
                digest = content_digest(data)
                if image < 0:
                    return _Seen(digest, None)
                name = str(self.source.path_of(place))
                if stored.labelled[image] and stored.digests[image] == digest:
                    try:
                        size = read_size(data, name)
                    except DecodeError:
                        size = (-1, -1)
                    if is_same_size(size, self._size_of(image)):
                        return _Seen(digest, size)
                file = decode_photo(self.source, place, data)
            except DecodeError as error:
                return _Seen(0, None, "undecodable", short_reason(str(error), self.source, place))
            except SourceError as error:
                return _Seen(0, None, "unreadable", short_reason(str(error), self.source, place))
            if file.photo is None:
                reason = short_reason(str(file.error), self.source, place)
                return _Seen(file.digest, None, "undecodable", reason)
            return _Seen(file.digest, file.photo.size)

        return look

    def _size_of(self, image: int) -> tuple[int, int]:
        width, height = self.stored.sizes[image].tolist()
        return width, height

    def _is_right(self, image: int, seen: _Seen) -> bool:
        """Whether a photo is the one that was labelled, as far as the store knows; counted."""
        if not self.stored.labelled[image] or seen.size is None:
            return False
        stored = int(self.stored.digests[image])
        if stored not in (0, seen.digest) or not is_same_size(seen.size, self._size_of(image)):
            return False
        by = "digest" if stored else "size" if min(self._size_of(image)) > 0 else "unknown"
        self.compared[by] += 1
        return True

    def _tell_others(self, others: list[tuple[int, _Seen]]) -> None:
        """Photos that are there and are not, or may not be, those that were labelled."""
        owners: dict[int, int] = {}
        if others:
            for image, digest in enumerate(self.stored.digests.tolist()):
                if digest:
                    owners.setdefault(digest, image)
        for image, seen in others:
            key = self.store.keys[image]
            if seen.problem == "unreadable":
                words = (
                    "cannot be read: nothing is known of them",
                    "restore the files, the rights to read them or what the system lacks, and ask "
                    "again",
                )
                self._found("unreadable", "error", words).add(key, seen.reason)
            elif not self.stored.labelled[image]:
                self._tell_unlabelled(key, seen)
            elif seen.digest in owners and owners[seen.digest] != image:
                words = (
                    "hold the file of another photo of the store",
                    "put each file back under its own name, or restore them from a copy",
                )
                owner = self.store.keys[owners[seen.digest]]
                self._found("other-file", "error", words, "exchanged").add(key, f"{owner}'s file")
            elif seen.problem == "undecodable":
                self._tell_undecodable(image, key, seen)
            else:
                self._tell_changed(image, key, seen)

    def _tell_unlabelled(self, key: str, seen: _Seen) -> None:
        if seen.problem is None:
            words = (
                "have no labels, for they could not be decoded then, and can be now",
                "labelstore repair --skipped labels them",
            )
            self._found("mended", "note", words).add(key)
            return
        words = (
            "have no labels, for they cannot be decoded",
            "restore the files, then labelstore repair --skipped labels them",
        )
        self._found("without-labels", "note", words).add(key, seen.reason)

    def _tell_undecodable(self, image: int, key: str, seen: _Seen) -> None:
        if seen.digest == int(self.stored.digests[image]):
            words = (
                "are the files that were labelled, and cannot be decoded here",
                "install the image libraries that the store was made with, or allow larger photos",
            )
            arguments = ("max_pixels",)
            finding = self._found("undecodable", "error", words, "decoder", arguments=arguments)
        else:
            words = ("were labelled, and are damaged now", "restore the files from a copy")
            finding = self._found("undecodable", "error", words)
        finding.add(key, seen.reason)

    def _tell_changed(self, image: int, key: str, seen: _Seen) -> None:
        size = self._size_of(image)
        if seen.size is None or is_same_size(seen.size, size):
            words = (
                "are other files than those that were labelled, of the same size",
                "restore the files; if they were only encoded anew, training takes them with "
                "check_photos='size', and verifying with a replay tells how far labels are off",
            )
            self._found("other-file", "error", words).add(key)
            return
        detail = f"{_sides(seen.size)}, labelled was {_sides(size)}"
        same_file = seen.digest == int(self.stored.digests[image])
        causes: dict[str | None, tuple[str, str]] = {
            "decoder": (
                "are the files that were labelled, and have another size here",
                "install the image libraries that the store was made with",
            ),
            "turned": (
                "have width and height exchanged: EXIF's orientation was lost, or pixels were "
                "turned",
                "restore the files that were labelled",
            ),
            "scaled": (
                "were made larger or smaller than those that were labelled",
                "give the files that were labelled: crops are cut out of the whole photo",
            ),
            None: (
                "are of another size than those that were labelled",
                "restore the files that were labelled",
            ),
        }
        cause = "decoder" if same_file else _cause_of_size(seen.size, size)
        self._found("other-size", "error", causes[cause], cause).add(key, detail)

    def _tell_root(self, above: bool, folder: str, lacking: list[int]) -> None:
        path = self.source.path
        words = (
            f"lie below {folder}/ in the source"
            if above
            else f"have keys that begin with {folder}/, and the source is that folder",
            f"give {path}/{folder}" if above else "give the folder that the store was made from",
        )
        finding = self._found("missing", "error", words, "root", arguments=("photos",))
        for image in lacking:
            finding.add(self.store.keys[image])

    def _tell_missing(self, lacking: list[int], spare: dict[str, _Seen]) -> None:
        keys = self.store.keys
        likely = alike_keys([keys[image] for image in lacking], list(spare))
        by_digest = {seen.digest: key for key, seen in spare.items() if seen.digest}
        used = set()
        for image in lacking:
            key = keys[image]
            if not self.stored.labelled[image]:
                words = ("have no labels, and are missing", "nothing: they could not be decoded")
                self._found("missing-unlabelled", "note", words).add(key)
                continue
            cause, other = likely.get(key, (None, ""))
            same = by_digest.get(int(self.stored.digests[image]))
            if cause in (None, "folder") and same is not None:
                is_moved = same.rpartition("/")[2] == key.rpartition("/")[2]
                cause, other = ("folder" if is_moved else "renamed"), same
            detail = ""
            if cause is not None:
                used.add(other)
                is_file = spare[other].digest == int(self.stored.digests[image])
                detail = f"now {other}, {'the same file' if is_file else 'another file'}"
            self._found("missing", "error", _MISSING[cause], cause).add(key, detail)
        extra = [self.source.keys[place] for place in self.pairs.extra]
        for key in extra:
            if key not in used:
                words = (
                    "are in the source and not in the store, so that they are never shown",
                    "nothing, if they are not to be trained on",
                )
                self._found("extra", "note", words).add(key)

    # Classes, pixels, versions

    def compare_classes(self, class_map: Mapping[str, int] | None) -> None:
        """Compare the store's ground truth with what the source's classes give."""
        places = self.pairs.places
        known = np.flatnonzero((places >= 0) & (self.store.targets >= 0))
        if not known.size:
            return
        manifest = self.store.manifest
        try:
            targets = resolve_targets(
                self.source,
                num_classes=manifest.num_classes,
                class_names=manifest.class_names,
                class_map=class_map,
            )
        except UsageError:
            raise
        except LabelStoreError as error:
            words = (
                f"classes were not compared: {str(error).rstrip('.')}",
                "give the class map that the store was made with",
            )
            self._found("unknown-classes", "note", words, noun="", arguments=("class_map",)).add(
                str(self.source.path)
            )
            return
        stored, here = self.store.targets[known], targets[places[known]]
        differing = (here >= 0) & (stored != here)
        by_class: dict[str | None, list[int]] = {}
        for number, image in enumerate(known.tolist()):
            by_class.setdefault(self.source.class_name(int(places[image])), []).append(number)
        for name, numbers in by_class.items():
            apart = [number for number in numbers if differing[number]]
            whole = len(apart) == len(numbers) and len(set(stored[numbers].tolist())) == 1
            for number in apart[:1] if whole else apart:
                detail = (
                    f"{self._class(stored[number])} in the store, {self._class(here[number])} by "
                    "the source"
                )
                if whole:
                    self._found_order().add(str(name), detail)
                else:
                    words = (
                        "have another class in the source than in the store",
                        "find out which is right; the store's ground truth is what FerKD and the "
                        "statistics use",
                    )
                    self._found("class", "error", words).add(
                        self.store.keys[int(known[number])], detail
                    )

    def _found_order(self) -> Finding:
        words = (
            "have another number in the store than by their names",
            "give the class map that the store was made with; if it was wrong, make the store anew "
            "with the right one: FerKD and the statistics use these numbers",
        )
        return self._found("class-order", "error", words, noun="class", arguments=("class_map",))

    def _class(self, number: int) -> str:
        names = self.store.manifest.class_names
        return f"{number}" if names is None else f"{number} ({names[number]})"

    def replay_probe(self) -> dict[str, int] | None:
        """Cut the probed views of photos that are as they were; how many there are, and differ."""
        manifest = self.store.manifest
        places = {
            self.store.keys[image]: int(self.pairs.places[image])
            for image in np.flatnonzero(self._right).tolist()
        }
        probe = [entry for entry in manifest.probe if entry["key"] in places]
        if not probe or not manifest.teachers or not isinstance(manifest.law, ViewLaw):
            return None
        height, width = manifest.teachers[0]["input_size"]
        shape = ((height, width), str(manifest.teachers[0]["interpolation"]))
        try:
            other, _ = replay_probe(probe, read_by_key(self.source, places), manifest.law, shape)
        except SourceError as error:
            words = (f"the pixels were not compared: {str(error).rstrip('.')}", "ask again")
            self._found("unknown-pixels", "note", words, noun="").add(str(self.source.path))
            return None
        here, stored = installed_versions()["Pillow"], manifest.producer.get("Pillow", "unknown")
        for key in dict.fromkeys(other):
            words = (
                "are the files that were labelled, and their views have other pixels here",
                f"install Pillow {stored}, with which the store was made (here is {here}), or "
                "train all the same (check_pixels=False)",
            )
            self._found("pixels", "error", words).add(key, f"{other.count(key)} probed views")
        return {"views": len(probe), "differing": len(other)}

    def compare_versions(self, probe: dict[str, int] | None) -> dict[str, Any]:
        """Compare the libraries that made the store with those that are installed."""
        stored = self.store.manifest.producer
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
                self._found("versions", "note", words, noun="library").add(name, detail)
        return versions

    def tell_incomplete(self) -> None:
        """What the store does not know, or does not have yet."""
        uncommitted = ~(self.stored.labelled | self.stored.unlabelled)
        for image in np.flatnonzero(uncommitted).tolist():
            words = (
                "are not labelled yet, and were not compared",
                "the command that makes the store goes on",
            )
            self._found("incomplete", "note", words).add(self.store.keys[image])
        if self.compared["unknown"]:
            words = (
                "have neither a digest nor a size in the store: nothing could be compared",
                "give digests and sizes when a store is written",
            )
            finding = self._found("unknown-photos", "note", words)
            finding.count = self.compared["unknown"]


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _cause_of_size(size: tuple[int, int], stored: tuple[int, int]) -> str | None:
    """Why a photo has another size than the one that was labelled."""
    if size == stored[::-1]:
        return "turned"
    # Sides are rounded, each by up to a half.
    apart = abs(size[0] * stored[1] - size[1] * stored[0])
    return "scaled" if 2 * apart <= stored[0] + stored[1] else None
