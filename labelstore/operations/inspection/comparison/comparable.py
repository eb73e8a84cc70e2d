"""What of two stores can be compared: which images, and whether view by view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from labelstore.errors import MismatchError
from labelstore.format.manifest import EXPLICIT
from labelstore.store.alignment import (
    no_shared_image,
    other_files,
    other_sizes,
    same_boxes,
    views_problem,
)
from labelstore.store.lineage import lineage
from labelstore.store.writer import LABELS
from labelstore.teachers.class_names import human_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from labelstore.store.label_reader import LabelReader

    BoolArray = npt.NDArray[np.bool_]
    Int64Array = npt.NDArray[np.int64]

__all__ = ["By", "Comparable", "comparable"]

By = Literal["views", "images"]
"""Whether labels of the same crop are compared, or the means over each image's views."""

_SAME_VIEWS = ("publish", "recode", "pull")
"""Operations that write the labels of one store anew, view for view."""


@dataclass(frozen=True)
class Comparable:
    """What is compared of stores a and b."""

    by: By
    reason: str | None
    """Why views are not compared one by one: a sentence; None where they are."""
    rows_a: Int64Array
    """(n,) where a has the images that are compared, rising."""
    rows_b: Int64Array
    """(n,) where b has them."""
    targets: npt.NDArray[np.int32]
    """(n,) their ground truth as either knows it; -1 where unknown, or where they disagree."""
    images: dict[str, Any]
    """How many images: ``both``, ``only_a``, ``only_b``, ``unlabelled``, ``other_crops``,
    ``compared``; and ``first_only_a``, ``first_only_b``: a key or None."""
    alerts: list[dict[str, str]]
    """What to know before reading the numbers: ``kind`` and ``text`` of each."""


def comparable(a: LabelReader, b: LabelReader) -> Comparable:
    """Match two stores by their images' keys, and see whether their labels can be compared.

    Raises:
        MismatchError: the classes are others, or in another order; no image is in both, or none
            that is labelled in both.
    """
    alerts = [*_classes(a, b), *_settings(a, b), *_incomplete(a, b)]
    places = {key: row for row, key in enumerate(b.keys)}
    matched = np.array([places.get(key, -1) for key in a.keys], dtype=np.int64)
    rows_a = np.flatnonzero(matched >= 0)
    rows_b = matched[rows_a]
    if not len(rows_a):
        raise no_shared_image((a, b))
    only_b = np.ones(b.num_images, dtype=bool)
    only_b[rows_b] = False
    images = {
        "both": len(rows_a),
        "only_a": a.num_images - len(rows_a),
        "only_b": b.num_images - len(rows_a),
        "first_only_a": _first_key(a, matched < 0),
        "first_only_b": _first_key(b, only_b),
    }
    labelled = a.labelled()[rows_a] & b.labelled()[rows_b]
    images["unlabelled"] = int((~labelled).sum())
    rows_a, rows_b = rows_a[labelled], rows_b[labelled]
    if not len(rows_a):
        raise MismatchError(
            f"{a.path} and {b.path} share {images['both']} images and none of them has labels in "
            "both: finish the runs that make them first (the same command again)."
        )
    reason, same, differences = _crops(a, b, rows_a, rows_b)
    alerts += differences
    images["other_crops"] = int((~same).sum())
    rows_a, rows_b = rows_a[same], rows_b[same]
    images["compared"] = len(rows_a)
    targets, differences = _targets(a, b, rows_a, rows_b)
    alerts += differences
    by: By = "views" if reason is None else "images"
    return Comparable(by, reason, rows_a, rows_b, targets, images, alerts)


def _alert(kind: str, text: str) -> dict[str, str]:
    return {"kind": kind, "text": text}


def _first_key(store: LabelReader, mask: BoolArray) -> str | None:
    return store.keys[int(mask.argmax())] if mask.any() else None


def _classes(a: LabelReader, b: LabelReader) -> list[dict[str, str]]:
    """Whether a class number means the same in both; an alert where that is not sure."""
    if a.num_classes != b.num_classes:
        raise MismatchError(
            f"{a.path} has {a.num_classes} classes and {b.path} {b.num_classes}, expected the same "
            "classes: labels of other classes cannot be compared; make both with teachers of the "
            "same classes."
        )
    # As a person calls them: one store may have WordNet ids where another has words.
    ours, theirs = human_names(a.manifest), human_names(b.manifest)
    if ours is None or theirs is None or ours == theirs:
        return []
    differing = [number for number in range(a.num_classes) if ours[number] != theirs[number]]
    first = differing[0]
    example = f"class {first} is {ours[first]!r} in {a.path} and {theirs[first]!r} in {b.path}"
    if {ours[number] for number in differing} & {theirs[number] for number in differing}:
        raise MismatchError(
            f"the classes are in another order ({example}), expected the same order: every class "
            "would be compared with another; make one of the stores anew, its teacher's class "
            "names in the order of its outputs."
        )
    text = (
        f"{len(differing)} of {a.num_classes} classes have other names ({example}). Where these "
        "are other classes, and not other words for the same, nothing below holds: compare "
        "stores of the same classes."
    )
    return [_alert("class_names", text)]


def _settings(a: LabelReader, b: LabelReader) -> list[dict[str, str]]:
    """Alerts for labels that say another thing by how they were made."""
    alerts = []
    types = [{member.manifest.label_type for member in store.members} for store in (a, b)]
    if types[0] != types[1]:
        text = (
            f"The labels are of other types ({_joined(types[0])} in A, {_joined(types[1])} in B). "
            "They are compared as each is recovered, so a part of the distance is the type's: make "
            "both of one type."
        )
        alerts.append(_alert("label_types", text))
    heats = [{member.manifest.temperature for member in store.members} for store in (a, b)]
    if heats[0] != heats[1]:
        differ = "may differ" if None in heats[0] | heats[1] else "differ"
        text = (
            f"The temperatures {differ} ({_joined(heats[0])} in A, {_joined(heats[1])} in B), and "
            "of the same teacher a higher one makes flatter labels: confidences and distances have "
            "that in them, the largest classes have not. Make both at one temperature."
        )
        alerts.append(_alert("temperatures", text))
    return alerts


def _joined(values: set[Any]) -> str:
    texts = (f"{value:g}" if isinstance(value, float) else value or "unknown" for value in values)
    return " and ".join(sorted(texts))


def _incomplete(a: LabelReader, b: LabelReader) -> list[dict[str, str]]:
    alerts = []
    for store in (a, b):
        missing = len(store.missing_blocks())
        if missing:
            text = (
                f"{store.path} is not finished: {missing} of {store.manifest.num_blocks} blocks "
                "are missing, and their images are not compared. The command that makes it goes "
                "on when it is given again."
            )
            alerts.append(_alert("incomplete", text))
    return alerts


def _crops(
    a: LabelReader, b: LabelReader, rows_a: Int64Array, rows_b: Int64Array
) -> tuple[str | None, BoolArray, list[dict[str, str]]]:
    """Why views cannot be compared, or None; (n,) of which images they can; alerts."""
    same = np.ones(len(rows_a), dtype=bool)
    alerts = []
    files = other_files(a, b, (rows_a, rows_b))
    if files.any():
        text = (
            f"{int(files.sum()):,} of {len(files):,} images were made from other files under the "
            f"same keys, first {a.keys[rows_a[files.argmax()]]!r}: if the photos changed in "
            "between, the labels differ by that, too."
        )
        alerts.append(_alert("other_files", text))
    reason = views_problem(a, b)
    if reason is not None and not _of_one_origin(a, b):
        return f"{reason}; the means over each image's views are compared instead.", same, alerts
    same &= ~other_sizes(a, b, (rows_a, rows_b))
    if a.law == EXPLICIT:
        same &= same_boxes(a, b, (rows_a, rows_b))
    differing = int((~same).sum())
    if not differing:
        return None, same, alerts
    key = a.keys[rows_a[(~same).argmax()]]
    if differing == len(same):
        reason = (
            f"{a.path} and {b.path} hold other crops of every image (of photos of other sizes, or "
            f"other boxes), first {key!r}: generate both from the same files"
        )
        everything = np.ones_like(same)
        return f"{reason}; the means over each image's views are compared instead.", everything, []
    text = (
        f"{differing:,} of {len(same):,} images have other crops in A than in B (photos of other "
        f"sizes, or other boxes), first {key!r}: they are left out. Generate both from the same "
        "files."
    )
    return None, same, [*alerts, _alert("other_crops", text)]


def _of_one_origin(a: LabelReader, b: LabelReader) -> bool:
    """Whether both hold the views of one store that does not say which crops these are."""
    return a.law is b.law is None and bool(_origins(a) & _origins(b))


def _origins(store: LabelReader) -> set[str]:
    names: set[str] = set()
    for member in store.members:
        manifest = member.manifest
        names.add(manifest.id)
        for step in reversed(lineage(manifest)):
            if not _keeps_views(step):
                break
            names.update(step["stores"])
        else:
            if LABELS in manifest.producer:
                # A copy of other layout has the same labels of the same images in the same order.
                names.add(f"{manifest.producer[LABELS]} {manifest.fingerprint}")
    return names


def _keeps_views(step: Mapping[str, Any]) -> bool:
    """Whether a view has the number that it had before a step of a store's lineage."""
    views = step["settings"].get("views")
    first = step["operation"] == "subset" and isinstance(views, list) and views[:1] == [0]
    return first or step["operation"] in _SAME_VIEWS


def _targets(
    a: LabelReader, b: LabelReader, rows_a: Int64Array, rows_b: Int64Array
) -> tuple[npt.NDArray[np.int32], list[dict[str, str]]]:
    ours, theirs = a.targets[rows_a], b.targets[rows_b]
    targets = np.where(ours >= 0, ours, theirs).astype(np.int32)
    differing = (ours >= 0) & (theirs >= 0) & (ours != theirs)
    if not differing.any():
        return targets, []
    targets[differing] = -1
    text = (
        f"A and B disagree on the ground truth of {int(differing.sum()):,} images, first "
        f"{a.keys[rows_a[differing.argmax()]]!r}: these are left out of what is told of the ground "
        "truth. Make both with the same class folders or class map."
    )
    return targets, [_alert("ground_truth", text)]
