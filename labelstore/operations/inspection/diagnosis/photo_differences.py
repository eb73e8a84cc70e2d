"""Whether the photos of a source are those that a store's labels belong to, each by its file."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from labelstore.errors import DecodeError, SourceError
from labelstore.images.every_photo import every_photo
from labelstore.images.photo_file import decode_photo, is_same_size, read_size
from labelstore.images.pixels import content_digest
from labelstore.images.sources.tar import TarSource
from labelstore.operations.inspection.diagnosis.key_pairs import alike_keys, other_root, pair_keys
from labelstore.operations.inspection.findings import short_reason

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from labelstore.images.sources.choose import ImageSource
    from labelstore.operations.inspection.diagnosis.key_pairs import Cause, KeyPairs
    from labelstore.operations.inspection.findings import Findings
    from labelstore.producer.progress import Progress
    from labelstore.store.store import Store

__all__ = ["PhotoComparison", "StoredPhotos"]

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
        "give the files their old names; those that were converted have other pixels: restore them",
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


class StoredPhotos(NamedTuple):
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
    def of(cls, store: Store) -> StoredPhotos:
        everything = np.arange(store.num_images)
        return cls(
            store.image_digests(everything),
            np.stack(store.sizes(everything), axis=1),
            store.labelled(),
            store.unreadable_rows(),
        )


class PhotoComparison:
    """A store and a source whose photos are compared.

    Attributes:
        stored: what the store knows of its images.
        pairs: which photo is which image.
        compared: how many files are as they were labelled, by what was compared: ``digest``,
            ``size``, and ``unknown`` where the store knows neither.
        right: (num_images,) bool, whether an image's photo is one of these.
    """

    def __init__(self, store: Store, source: ImageSource, findings: Findings) -> None:
        """Nothing is read yet; what differs goes to ``findings``."""
        self._store, self._source, self._findings = store, source, findings
        self.stored = StoredPhotos.of(store)
        self.pairs: KeyPairs = pair_keys(store.keys, source.keys, isinstance(source, TarSource))
        self.compared = {"digest": 0, "size": 0, "unknown": 0}
        self.right: npt.NDArray[np.bool_] = np.zeros(store.num_images, dtype=bool)

    def run(self, workers: int, progress: Progress | None) -> None:
        """Read every photo that can be one of the store's, and compare it."""
        places = self.pairs.places
        images = np.full(len(self._source), -1, dtype=np.int64)
        images[places[places >= 0]] = np.flatnonzero(places >= 0)
        committed = self.stored.labelled | self.stored.unlabelled
        lacking = np.flatnonzero((places < 0) & committed)
        if self.pairs.without_suffix:
            self._findings.of(
                "keys-without-suffix",
                "note",
                (
                    "have the store's keys without their suffixes, as samples of shards do",
                    "nothing with WebDatasetViews, which knows that; a data set of these photos "
                    "needs the store's keys",
                ),
            ).add(str(self._source.path))
        root = other_root(self._store.keys, self._source.keys) if (places < 0).all() else None
        if root is not None:
            self._tell_root(root.above, root.folder, lacking.tolist())
            return
        # What is nobody's may be what is missing.
        is_compared = (images >= 0) & committed[images]
        if lacking.size:
            is_compared[self.pairs.extra] = True
        if progress is not None:
            progress.resumed(int((~is_compared).sum()))
        spare: dict[str, _Seen] = {}
        others: list[tuple[int, _Seen]] = []
        look = self._look_of(images)
        for place, seen in every_photo(np.flatnonzero(is_compared).tolist(), look, workers):
            if progress is not None:
                progress.update(1, 1)
            image = int(images[place])
            if image < 0:
                spare[self._source.keys[place]] = seen
            elif self._is_right(image, seen):
                self.right[image] = True
            else:
                others.append((image, seen))
        self._tell_others(others)
        self._tell_missing(lacking.tolist(), spare)

    def _look_of(self, images: npt.NDArray[np.int64]) -> Callable[[int], _Seen]:
        stored = self.stored

        def look(place: int) -> _Seen:
            image = int(images[place])
            try:
                data = self._source.read(place)
                digest = content_digest(data)
                if image < 0:
                    return _Seen(digest, None)
                name = str(self._source.path_of(place))
                if stored.labelled[image] and stored.digests[image] == digest:
                    # What its head does not tell, or tells otherwise, decoding does.
                    with contextlib.suppress(DecodeError):
                        size = read_size(data, name)
                        if is_same_size(size, self._size_of(image)):
                            return _Seen(digest, size)
                file = decode_photo(self._source, place, data)
            except DecodeError as error:
                return _Seen(0, None, "undecodable", short_reason(str(error), self._source, place))
            except SourceError as error:
                return _Seen(0, None, "unreadable", short_reason(str(error), self._source, place))
            if file.photo is None:
                reason = short_reason(str(file.error), self._source, place)
                return _Seen(file.digest, None, "undecodable", reason)
            return _Seen(file.digest, file.photo.size)

        return look

    def _size_of(self, image: int) -> tuple[int, int]:
        width, height = self.stored.sizes[image].tolist()
        return width, height

    def _is_same_file(self, image: int, seen: _Seen) -> bool:
        """Whether a file is certainly the one that was labelled."""
        return seen.digest != 0 and seen.digest == int(self.stored.digests[image])

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
            key = self._store.keys[image]
            if seen.problem == "unreadable":
                words = (
                    "cannot be read: nothing is known here",
                    "restore the files, the rights to read them or what the system lacks, and ask "
                    "again",
                )
                self._findings.of("unreadable", "error", words).add(key, seen.reason)
            elif not self.stored.labelled[image]:
                self._tell_unlabelled(key, seen)
            elif seen.digest in owners and not self._is_same_file(image, seen):
                words = (
                    "hold the file of another photo of the store",
                    "put each file back under its own name, or restore them from a copy",
                )
                owner = self._store.keys[owners[seen.digest]]
                finding = self._findings.of("other-file", "error", words, "exchanged")
                finding.add(key, f"{owner}'s file")
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
            self._findings.of("mended", "note", words).add(key)
            return
        words = (
            "have no labels, for they cannot be decoded",
            "restore the files, then labelstore repair --skipped labels them",
        )
        self._findings.of("without-labels", "note", words).add(key, seen.reason)

    def _tell_undecodable(self, image: int, key: str, seen: _Seen) -> None:
        if self._is_same_file(image, seen):
            words = (
                "are the files that were labelled, and cannot be decoded here",
                "install the image libraries that the store was made with, or allow larger photos",
            )
            finding = self._findings.of("undecodable", "error", words, "decoder")
            finding.arguments = ("max_pixels",)
        else:
            words = ("were labelled, and are damaged now", "restore the files from a copy")
            finding = self._findings.of("undecodable", "error", words)
        finding.add(key, seen.reason)

    def _tell_changed(self, image: int, key: str, seen: _Seen) -> None:
        size = self._size_of(image)
        if seen.size is None or is_same_size(seen.size, size):
            words = (
                "are other files than those that were labelled, of the same size",
                "restore the files; if they were only encoded anew, training takes them with "
                "check_photos='size', and verifying with a replay tells how far labels are off",
            )
            self._findings.of("other-file", "error", words).add(key)
            return
        detail = f"{_sides(seen.size)}, labelled was {_sides(size)}"
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
        cause = "decoder" if self._is_same_file(image, seen) else _cause_of_size(seen.size, size)
        self._findings.of("other-size", "error", causes[cause], cause).add(key, detail)

    def _tell_root(self, above: bool, folder: str, lacking: list[int]) -> None:
        path = self._source.path
        words = (
            f"lie below {folder}/ in the source"
            if above
            else f"have keys that begin with {folder}/, and the source is that folder",
            f"give {path}/{folder}" if above else "give the folder that the store was made from",
        )
        finding = self._findings.of("missing", "error", words, "root", arguments=("photos",))
        for image in lacking:
            finding.add(self._store.keys[image])

    def _tell_missing(self, lacking: list[int], spare: dict[str, _Seen]) -> None:
        keys = self._store.keys
        likely = alike_keys([keys[image] for image in lacking], list(spare))
        by_digest = {seen.digest: key for key, seen in spare.items() if seen.digest}
        matches = set()
        for image in lacking:
            key = keys[image]
            if not self.stored.labelled[image]:
                words = ("have no labels, and are missing", "nothing: they could not be decoded")
                self._findings.of("missing-unlabelled", "note", words).add(key)
                continue
            cause, other = likely.get(key, (None, ""))
            same = by_digest.get(int(self.stored.digests[image]))
            if cause in (None, "folder") and same is not None:
                is_moved = same.rpartition("/")[2] == key.rpartition("/")[2]
                cause, other = ("folder" if is_moved else "renamed"), same
            detail = ""
            if cause is not None:
                matches.add(other)
                detail = f"now {other}"
                if self.stored.digests[image]:
                    is_file = self._is_same_file(image, spare[other])
                    detail += ", the same file" if is_file else ", another file"
            self._findings.of("missing", "error", _MISSING[cause], cause).add(key, detail)
        extra = [self._source.keys[place] for place in self.pairs.extra]
        for key in extra:
            if key not in matches:
                words = (
                    "are in the source and not in the store, so that they are never shown",
                    "nothing, if they are not to be trained on",
                )
                self._findings.of("extra", "note", words).add(key)


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _cause_of_size(size: tuple[int, int], stored: tuple[int, int]) -> str | None:
    """Why a photo has another size than the one that was labelled."""
    if size == stored[::-1]:
        return "turned"
    # Sides are rounded, each by up to a half.
    apart = abs(size[0] * stored[1] - size[1] * stored[0])
    return "scaled" if 2 * apart <= stored[0] + stored[1] else None
