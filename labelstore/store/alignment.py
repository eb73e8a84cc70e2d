"""Whether stores of several teachers hold labels of the same views, and where each has an image.

Stores are aligned by image key. What is refused, by name of the first image that differs: other
classes, other view laws or boxes, other files or photos of other sizes under the same keys, and
ground truth that disagrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from labelstore.errors import MismatchError, require_choice
from labelstore.format.manifest import EXPLICIT
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from labelstore.store.label_reader import LabelReader
    from labelstore.store.store import Store

    Rows = tuple[npt.NDArray[np.int64], ...]

__all__ = [
    "Alignment",
    "Images",
    "align",
    "no_shared_image",
    "other_files",
    "other_sizes",
    "same_boxes",
    "views_problem",
]

Images = Literal["strict", "intersection"]
"""Whether all stores must hold the same images, or those are read that all of them hold."""

_BOXES = 1 << 16
"""Stored boxes that are compared at a time."""


@dataclass(frozen=True)
class Alignment:
    """The images that stores share, in the first one's order."""

    rows: Rows
    """(n,) int64 for each store: where it has each of the shared images."""
    targets: npt.NDArray[np.int32]
    """(n,) int32: their ground-truth class ids, -1 where no store knows it."""


def align(members: tuple[Store, ...], images: Images) -> Alignment:
    """Find the images that stores share, and check that their labels can be averaged.

    Args:
        members: at least one store.
        images: ``"strict"`` or ``"intersection"``, see ``labelstore.ensemble``.

    Raises:
        MismatchError: the stores' images, views, classes or ground truth differ, or they share no
            image. UsageError: another value of ``images``.
    """
    require_choice("images", images, get_args(Images))
    first = members[0]
    for number, member in enumerate(members[1:], 1):
        _check_classes(members[:number], member)
        if member is not first:
            _check_laws(first, member)
    shared = _shared(members, images)
    rows = tuple(_rows_of(first, member, shared) for member in members)
    targets = _targets(members, rows)
    for number, member in enumerate(members[1:], 1):
        if member is not first:
            _check_crops(members, rows, number)
    return Alignment(rows, targets)


def _check_classes(before: tuple[Store, ...], member: Store) -> None:
    """The same classes as those of every member before, by their names where both have names."""
    for other in before:
        names = f"{other.path} and {member.path}"
        if member.num_classes != other.num_classes:
            raise MismatchError(
                f"{names} have {other.num_classes} and {member.num_classes} classes, expected the "
                "same classes: these teachers cannot be averaged."
            )
        theirs, ours = member.manifest.class_names, other.manifest.class_names
        if ours is not None and theirs is not None and ours != theirs:
            raise MismatchError(f"{names} name their classes differently: they cannot be averaged.")


def _shared(members: tuple[Store, ...], images: Images) -> npt.NDArray[np.int64]:
    """Positions, rising, of the first member's images that all members hold."""
    first = members[0]
    shared = np.ones(first.num_images, dtype=bool)
    for member in members[1:]:
        if member is first:
            continue
        theirs = set(member.keys)
        is_shared = np.fromiter((key in theirs for key in first.keys), bool, first.num_images)
        if images == "strict":
            _check_images(first, member, is_shared)
        shared &= is_shared
    if not shared.any():
        raise no_shared_image(members)
    return np.flatnonzero(shared)


def no_shared_image(members: Sequence[LabelReader]) -> MismatchError:
    """The error that stores share no image."""
    return MismatchError(
        f"{' and '.join(str(member.path) for member in members)} share no image (the first "
        f"key of each is {', '.join(repr(member.keys[0]) for member in members)}): keys are "
        "paths relative to the source folder, so generate all from one folder."
    )


def _check_images(first: Store, member: Store, is_shared: npt.NDArray[np.bool_]) -> None:
    """MismatchError that names the first image that only one of two stores holds."""
    if is_shared.all() and member.num_images == first.num_images:
        return
    if not is_shared.all():
        owner, key = first, first.keys[int(np.argmin(is_shared))]
    else:
        ours = set(first.keys)
        owner, key = member, next(key for key in member.keys if key not in ours)
    raise MismatchError(
        f"{first.path} and {member.path} hold {first.num_images} and {member.num_images} images, "
        f"expected the same images, but only {owner.path} has {key!r}: generate both from one "
        'source, or read those that both have (images="intersection").',
        arguments=("images",),
    )


def _rows_of(first: Store, member: Store, shared: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where a member has the shared images."""
    if member is first:
        return shared
    if len(shared) == first.num_images:
        return member.index_of(first.keys)
    return member.index_of([first.keys[row] for row in shared.tolist()])


def _targets(members: tuple[Store, ...], rows: Rows) -> npt.NDArray[np.int32]:
    """Ground truth of the shared images, known where any member knows it."""
    first = members[0]
    known = np.array(first.targets[rows[0]], dtype=np.int32)
    for member, order in zip(members[1:], rows[1:], strict=True):
        theirs = member.targets[order]
        differing = np.flatnonzero((known >= 0) & (theirs >= 0) & (known != theirs))
        if differing.size:
            place = differing[0]
            other = next(m for m, r in zip(members, rows, strict=True) if m.targets[r[place]] >= 0)
            raise MismatchError(
                f"{other.path} and {member.path} disagree on the ground truth of {differing.size} "
                f"images, first {first.keys[rows[0][place]]!r}: make both with the same "
                "class folders or class map."
            )
        known = np.where(known >= 0, known, theirs)
    return known


def views_problem(first: LabelReader, member: LabelReader) -> str | None:
    """Why views of one number are not the same crops in two stores; None where they are.

    By the stores' laws alone: whether stored boxes are the same is not looked at. A sentence with
    the mend, without its full stop.
    """
    names = f"{first.path} and {member.path}"
    if member.law != first.law:
        return (
            f"{names} hold different views ({_law_text(first.law)} and {_law_text(member.law)}): "
            "generate both with the same seed, scale, ratio, flip and augmentations"
        )
    if first.law is None:
        return (
            f"{names} do not say which crops their labels belong to, so they cannot be aligned: "
            "make them with a view law or with boxes and flips"
        )
    return None


def other_sizes(first: LabelReader, member: LabelReader, rows: Rows) -> npt.NDArray[np.bool_]:
    """(n,) bool: which images ``rows`` of two stores have other sizes, where both are known."""
    ours, theirs = np.stack(first.sizes(rows[0])), np.stack(member.sizes(rows[1]))
    return np.asarray(((ours != theirs) & (ours > 0) & (theirs > 0)).any(axis=0))


def other_files(first: LabelReader, member: LabelReader, rows: Rows) -> npt.NDArray[np.bool_]:
    """(n,) bool: which images ``rows`` are of other files, where both know their digests."""
    ours, theirs = first.image_digests(rows[0]), member.image_digests(rows[1])
    return np.asarray((ours != theirs) & (ours > 0) & (theirs > 0))


def same_boxes(first: LabelReader, member: LabelReader, rows: Rows) -> npt.NDArray[np.bool_]:
    """(n,) bool: of which images ``rows`` of two stores of stored boxes, which have labels in both,
    all views that both have are of the same boxes and flips."""
    numbers = np.arange(min(first.num_views, member.num_views))[None]
    step = max(_BOXES // numbers.size, 1)
    same = np.empty(len(rows[0]), dtype=bool)
    for start in range(0, len(same), step):
        part = slice(start, start + step)
        ours = first.views(rows[0][part, None], numbers)
        theirs = member.views(rows[1][part, None], numbers)
        boxes = (ours.box == theirs.box).all(axis=(1, 2))
        same[part] = boxes & (ours.flip == theirs.flip).all(axis=1)
    return same


def _check_laws(first: Store, member: Store) -> None:
    problem = views_problem(first, member)
    if problem is not None:
        raise MismatchError(f"{problem}.")


def _check_photos(members: tuple[Store, ...], rows: Rows, number: int) -> None:
    """Photos of the same sizes, and the same files, as those of every member before, where both
    know them."""
    member = members[number]
    for other, their_rows in zip(members[:number], rows[:number], strict=True):
        if other is member:
            continue
        both = their_rows, rows[number]
        for differ, photos in (
            (other_sizes, "photos of other sizes"),
            (other_files, "other files under the same keys"),
        ):
            differing = np.flatnonzero(differ(other, member, both))
            if differing.size:
                raise MismatchError(
                    f"{other.path} and {member.path} were made from {photos}, {differing.size} in "
                    f"all, first {_key(members, rows, differing[0])!r}: generate both from the "
                    "same files."
                )


def _law_text(law: ViewLaw | str | None) -> str:
    if isinstance(law, ViewLaw):
        scale, ratio = (
            " to ".join(f"{bound:.4g}" for bound in part) for part in (law.scale, law.ratio)
        )
        augment = "".join(f", augment {stage}" for stage in law.stages)
        return f"seed {law.seed}, scale {scale}, ratio {ratio}, flip {law.flip:.4g}{augment}"
    return "stored boxes" if law == EXPLICIT else "unknown ones"


def _check_crops(members: tuple[Store, ...], rows: Rows, number: int) -> None:
    """The same files at the same size, and the same boxes where they are stored."""
    first, member = members[0], members[number]
    _check_photos(members, rows, number)
    if first.manifest.law != EXPLICIT:
        return
    # An image without labels has no boxes: the ensemble has no labels of it either.
    labelled = np.flatnonzero(first.labelled()[rows[0]] & member.labelled()[rows[number]])
    same = same_boxes(first, member, (rows[0][labelled], rows[number][labelled]))
    if not same.all():
        image = int(labelled[same.argmin()])
        raise MismatchError(
            f"{first.path} and {member.path} hold different crops of "
            f"{_key(members, rows, image)!r}: their labels cannot be averaged."
        )


def _key(members: tuple[Store, ...], rows: Rows, image: int) -> str:
    """The key of a shared image."""
    return members[0].keys[int(rows[0][image])]
