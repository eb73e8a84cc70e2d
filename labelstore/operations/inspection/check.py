"""Whether photos are fit to be labelled: every one is read and decoded once."""

from __future__ import annotations

import time
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from labelstore.errors import MismatchError, SourceError, UsageError
from labelstore.images.every_photo import every_photo
from labelstore.images.formats import is_image_name
from labelstore.images.ground_truth.targets import check_classes
from labelstore.images.photo_file import fault_of, has_several_frames, read_photo
from labelstore.images.sources.folder import FolderSource
from labelstore.images.sources.parquet import ParquetSource
from labelstore.operations.inspection.findings import NAMED, Finding, short_reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from labelstore.images.photo_file import Fault, Header
    from labelstore.images.sources.choose import ImageSource

__all__ = ["CHECK_VERSION", "check"]

CHECK_VERSION = 1
"""Of the report."""

_REPLACE = "restore the files, or remove them"

_FAULTS: dict[Fault, tuple[str, str]] = {
    "truncated": ("end too soon, as after a copy that was interrupted", _REPLACE),
    "damaged": ("are damaged", _REPLACE),
    "no-image": ("are of no image format that is read", _REPLACE),
    "empty": ("are empty", _REPLACE),
    "too-large": (
        "have more pixels than are read",
        "make them smaller, or if they are to be trusted allow more",
    ),
    "mode": (
        "have pixels that cannot become 8-bit RGB without a loss",
        "save them with 8 bits a channel",
    ),
}
"""What is said of photos that cannot be decoded, and the mend."""


class _Look(NamedTuple):
    """What was seen of one photo."""

    header: Header | None
    """None where it cannot be opened."""
    size: int
    """Bytes."""
    digest: int
    fault: Fault | None
    unread: bool
    """Whether nothing is known of it, for it could not be read."""
    reason: str
    several_frames: bool


def check(
    source: ImageSource,
    *,
    targets: Literal["folders", "none"] = "folders",
    workers: int = 1,
    limit: int = NAMED,
    tell: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Read and decode every photo of a source, and tell what is there.

    Args:
        source: the photos.
        targets: as for ``resolve_targets``: whether photos are to have classes.
        workers: threads that read and decode.
        limit: names that are told of each kind of finding.
        tell: called after each photo with 1 and 1.

    Returns:
        The report, ready for JSON (``schemas/check.schema.json``).

    Raises:
        UsageError: no worker, or a negative limit. SourceError: there is no memory.
    """
    if workers < 1 or limit < 0:
        raise UsageError(
            f"there are {workers} workers and {limit} names are to be told, expected at least 1 "
            "and 0."
        )
    started = time.perf_counter()
    census = _Census(source, limit)
    for index, look in every_photo(range(len(source)), _looker(source), workers):
        census.add(index, look)
        if tell is not None:
            tell(1, 1)
    seconds = time.perf_counter() - started
    findings = [*census.faults(), *_about_classes(source, targets, limit)]
    findings += [*census.duplicates(), *_about_names(source, limit), *census.notes()]
    order = ("stops", "skipped", "note")
    findings = sorted(
        (finding for finding in findings if finding.count),
        key=lambda finding: order.index(finding.weight),
    )
    return {
        "check_version": CHECK_VERSION,
        "photos": str(source.path),
        "count": len(source),
        "decoded": int(census.decoded.sum()),
        "bytes": int(census.bytes.sum()),
        "seconds": round(seconds, 3),
        "workers": workers,
        "formats": census.formats(),
        "classes": _class_counts(source),
        "passed_over": source.passed_over.to_json(limit),
        "findings": [finding.to_json() for finding in findings],
        "stops": [f.kind for f in findings if f.weight == "stops"],
        "skipped": [f.kind for f in findings if f.weight == "skipped"],
        "fit": all(finding.weight == "note" for finding in findings),
    }


def _looker(source: ImageSource) -> Callable[[int], _Look]:
    def look(index: int) -> _Look:
        try:
            file = read_photo(source, index)
        except SourceError as error:
            return _Look(None, 0, 0, None, True, str(error), False)
        header, size = file.header, len(file.data or b"")
        if file.error is not None:
            return _Look(header, size, file.digest, fault_of(file), False, str(file.error), False)
        several = header is not None and has_several_frames(file.data or b"", header.format)
        return _Look(header, size, file.digest, None, False, "", several)

    return look


class _Census:
    """What is counted of all photos; of each a few numbers are kept."""

    def __init__(self, source: ImageSource, limit: int) -> None:
        count = len(source)
        self._source = source
        self._limit = limit
        self.decoded = np.zeros(count, dtype=bool)
        self.bytes = np.zeros(count, dtype=np.int64)
        self._sides = np.zeros((count, 2), dtype=np.int64)
        self._digests = np.zeros(count, dtype=np.uint64)
        self._kinds = np.zeros(count, dtype=np.int64)
        self._numbers: dict[tuple[str, str], int] = {}
        self._unread = Finding(
            "unreadable",
            "stops",
            "cannot be read: nothing is known here",
            "restore the files, the rights to read them or what the system lacks; such photos are "
            "never left out, for they may be right",
            limit=limit,
        )
        self._faults = {
            kind: Finding(kind, "skipped", text, mend, limit=limit)
            for kind, (text, mend) in _FAULTS.items()
        }
        self._faults["too-large"].arguments = ("max_pixels",)
        self._turned = Finding(
            "turned",
            "note",
            "are turned upright, as EXIF data say",
            "nothing: but a training loop of your own has to turn them, too",
            limit=limit,
        )
        self._several = Finding(
            "several-frames",
            "note",
            "have several frames, of which the first is the photo",
            "nothing, if the first frame is the photo",
            limit=limit,
        )

    def add(self, index: int, look: _Look) -> None:
        """Note one photo."""
        key = self._source.keys[index]
        self.bytes[index], self._digests[index] = look.size, look.digest
        if look.unread:
            self._unread.add(key, short_reason(look.reason, self._source, index))
            return
        if look.fault is not None:
            self._faults[look.fault].add(key, short_reason(look.reason, self._source, index))
        if look.header is None or look.fault is not None:
            return
        self.decoded[index] = True
        kind = (look.header.format, look.header.mode)
        self._kinds[index] = self._numbers.setdefault(kind, len(self._numbers))
        self._sides[index] = look.header.width, look.header.height
        if look.header.turned:
            self._turned.add(key)
        if look.several_frames:
            self._several.add(key, look.header.format)

    def faults(self) -> list[Finding]:
        """Photos that cannot be read, or decoded."""
        return [self._unread, *self._faults.values()]

    def notes(self) -> list[Finding]:
        """What is worth knowing of those that can be."""
        return [self._turned, self._several]

    def formats(self) -> list[dict[str, Any]]:
        """A row for each format and mode, the most frequent first."""
        rows = []
        for (name, mode), number in self._numbers.items():
            own = np.flatnonzero(self.decoded & (self._kinds == number))
            order = own[np.argsort(self._sides[own].prod(axis=1), kind="stable")]
            chosen = {"smallest": order[0], "median": order[(len(order) - 1) // 2]}
            chosen["largest"] = order[-1]
            rows.append(
                {
                    "format": name,
                    "mode": mode,
                    "count": len(own),
                    "bytes": int(self.bytes[own].sum()),
                    **{size: self._sides[photo].tolist() for size, photo in chosen.items()},
                }
            )
        return sorted(rows, key=lambda row: (-row["count"], row["format"], row["mode"]))

    def duplicates(self) -> list[Finding]:
        """Photos whose files are the same, those in different classes first."""
        across = Finding(
            "duplicates-across-classes",
            "note",
            "are the same file in different classes: one class at least is wrong",
            "keep each in its right class, and remove the others",
            "group",
            limit=self._limit,
        )
        within = Finding(
            "duplicates",
            "note",
            "are the same file under several names",
            "remove all but one, unless they are to count more often",
            "group",
            limit=self._limit,
        )
        photos = np.flatnonzero(self.decoded)
        # Equal digests of files of different sizes would be a collision.
        order = photos[np.lexsort((self.bytes[photos], self._digests[photos]))]
        marks = np.stack([self._digests[order], self.bytes[order].astype(np.uint64)])
        starts = np.flatnonzero(np.r_[True, (marks[:, 1:] != marks[:, :-1]).any(axis=0)])
        sizes = np.diff(np.r_[starts, len(order)])
        several = sizes > 1
        groups = [
            np.sort(order[start : start + size]).tolist()
            for start, size in zip(starts[several], sizes[several], strict=True)
        ]
        for group in sorted(groups):
            classes = {_class_of(self._source, photo) for photo in group} - {None}
            first, *others = (self._source.keys[photo] for photo in group)
            (across if len(classes) > 1 else within).add(first, _listed(others))
        return [across, within]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _class_of(source: ImageSource, index: int) -> str | None:
    """What the class of a photo is called, also where others have none."""
    name = source.class_name(index)
    folder, slash, _ = source.keys[index].partition("/")
    return folder if name is None and source.classes is None and slash else name


def _class_counts(source: ImageSource) -> dict[str, Any] | None:
    """How many classes there are, and the smallest and largest; None where none is known."""
    counts = Counter(_class_of(source, index) for index in range(len(source)))
    counts.pop(None, None)
    if not counts:
        return None
    order = sorted(counts, key=lambda name: (counts[name], name or ""))
    ends = {"smallest": order[0], "largest": order[-1]}
    return {
        "count": len(counts),
        **{end: {"name": name, "count": counts[name]} for end, name in ends.items()},
    }


def _about_classes(
    source: ImageSource, targets: Literal["folders", "none"], limit: int
) -> list[Finding]:
    """Whether the photos are sorted into classes."""
    weight: Literal["stops", "note"] = "stops" if targets == "folders" else "note"
    try:
        check_classes(source)
    except MismatchError as error:
        if source.mixed or source.classes is None:
            loose = Finding(
                "without-class",
                weight,
                "are in no class folder" if source.classes is None else "have no class",
                "sort them into class folders; where no ground truth is needed, targets may be "
                "'none'",
                arguments=("targets",),
                limit=limit,
            )
            for index in range(len(source)):
                if _class_of(source, index) is None:
                    loose.add(source.keys[index])
            if not loose.count:
                # Whatever the reason is that none can be named, generate would stop.
                loose.add(str(source.path), str(error))
            return [loose]
        splits = Finding(
            "splits",
            weight,
            "are splits of a data set and not classes",
            f"give one of them, as {source.path}/{source.classes[0]}; if they are classes, a class "
            "map for generate says so",
            "folder",
            arguments=error.arguments,
            limit=limit,
        )
        for name in source.classes:
            splits.add(name)
        return [splits]
    return []


def _about_names(source: ImageSource, limit: int) -> list[Finding]:
    """Classes without photos, folders that look like photos, and classes that look alike."""
    empty = Finding(
        "empty-classes",
        "note",
        "hold no photo",
        "restore their photos, or remove them: where nothing else names the teacher's classes, "
        "folders are counted",
        "class folder",
        limit=limit,
    )
    like_photos = Finding(
        "folders-like-photos",
        "note",
        "have the name of a photo, and none below",
        "remove them, and restore the files if there were any",
        "folder",
        limit=limit,
    )
    alike = Finding(
        "alike-classes",
        "note",
        "differ from another in nothing but case or Unicode's normal form",
        "make one folder of each pair, unless they are two classes",
        "class",
        limit=limit,
    )
    for folder in source.empty_folders() if isinstance(source, FolderSource) else ():
        if is_image_name(folder):
            like_photos.add(folder)
        elif "/" not in folder:
            empty.add(folder)
    if isinstance(source, ParquetSource) and source.label_names is not None:
        for name in source.label_names:
            if name not in (source.classes or ()):
                empty.add(name)
    seen: dict[str, str] = {}
    for name in source.classes or ():
        other = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            alike.add(name, f"as {other}")
    return [alike, like_photos, empty]
