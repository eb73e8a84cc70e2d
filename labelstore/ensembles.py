"""Several teachers' stores read as one; the members stay separable.

The mean over teachers is taken of recovered (and, with FerKD, calibrated) labels, at read time, as
in section 3.4 of the FerKD paper. Members are aligned by image key, and refused when they do not
hold labels of the same views of the same images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from labelstore.errors import MismatchError, UsageError
from labelstore.labels import SoftLabels, TopK, mix
from labelstore.manifest import EXPLICIT

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from labelstore.labels import LabelType, Tail
    from labelstore.store import Store
    from labelstore.views import Views

__all__ = ["Ensemble", "EnsembleTopK", "ensemble"]


@dataclass(frozen=True)
class EnsembleTopK:
    """Stored labels of the same views from several teachers."""

    members: tuple[TopK, ...]
    """One TopK for each teacher, all of one leading shape."""
    weights: npt.NDArray[np.float64]
    """(M,) float64, non-negative, sum 1."""

    @property
    def num_classes(self) -> int:
        """The number of classes, the same for all members."""
        return self.members[0].num_classes

    def recover(self, tail: Tail | None = None) -> SoftLabels:
        """The weighted mean of the members' recovered labels."""
        return mix([member.recover(tail) for member in self.members], self.weights)

    def as_type(self, label_type: LabelType, tail: Tail | None = None) -> SoftLabels:
        """The weighted mean of the members' labels of a label type."""
        return mix([member.as_type(label_type, tail) for member in self.members], self.weights)


class Ensemble:
    """Reads like a store: images are numbered as in the first member.

    Made by ``labelstore.ensemble``.
    """

    def __init__(self, members: Sequence[Store], weights: Sequence[float] | None = None) -> None:
        if not members:
            raise UsageError("an ensemble of no stores was asked for: give at least one.")
        factors = np.asarray([1.0] * len(members) if weights is None else weights, dtype=float)
        if factors.shape != (len(members),) or factors.min() < 0 or factors.sum() <= 0:
            raise UsageError(
                f"weights are {list(factors)}, expected {len(members)} non-negative numbers that "
                "are not all 0, one for each store."
            )
        self.members = tuple(members)
        self.weights = factors / factors.sum()
        first = self.members[0]
        self.num_images = first.num_images
        self.num_views = min(member.num_views for member in self.members)
        self.num_classes = first.num_classes
        self.manifest = first.manifest
        self.path = first.path
        self._rows = [_align(first, member) for member in self.members]

    @property
    def keys(self) -> tuple[str, ...]:
        """The images' keys, in the first member's order."""
        return self.members[0].keys

    @property
    def targets(self) -> npt.NDArray[np.int32]:
        """(num_images,) int32 ground-truth class ids, -1 where unknown."""
        return self.members[0].targets

    @property
    def complete(self) -> bool:
        """Whether every member is."""
        return all(member.complete for member in self.members)

    @property
    def law(self) -> object:
        """The view law that all members share."""
        return self.members[0].law

    def missing_blocks(self) -> list[int]:
        """Blocks of the first member that lack labels in some member."""
        first = self.members[0]
        size = first.manifest.block_images
        missing: set[int] = set()
        for member, rows in zip(self.members, self._rows, strict=True):
            absent = set(member.missing_blocks())
            if not absent:
                continue
            blocks = rows // member.manifest.block_images
            missing |= {int(row) // size for row in np.flatnonzero(np.isin(blocks, list(absent)))}
        return sorted(missing)

    def labelled(self) -> npt.NDArray[np.bool_]:
        """(num_images,) bool: whether every member holds labels of the image."""
        together = np.ones(self.num_images, dtype=bool)
        for member, rows in zip(self.members, self._rows, strict=True):
            together &= member.labelled()[rows]
        return together

    def index_of(self, keys: Sequence[str]) -> npt.NDArray[np.int64]:
        """(n,) int64 positions of images by key; NotFoundError names a key that is not there."""
        return self.members[0].index_of(keys)

    def sizes(self, images: npt.ArrayLike) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Widths and heights of images, in pixels."""
        return self.members[0].sizes(images)

    def views(self, images: npt.ArrayLike, views: npt.ArrayLike) -> Views:
        """Boxes and flips of views, the same for all members."""
        return self.members[0].views(images, views)

    def read(self, images: npt.ArrayLike | Sequence[str], views: npt.ArrayLike) -> EnsembleTopK:
        """Labels of views from every member; the arguments are those of ``Store.read``."""
        rows = self.members[0].positions(images)
        return EnsembleTopK(
            tuple(
                member.read(order[rows], views)
                for member, order in zip(self.members, self._rows, strict=True)
            ),
            self.weights,
        )


def ensemble(members: Sequence[Store], weights: Sequence[float] | None = None) -> Ensemble:
    """Open the (weighted) mean of several teachers' stores.

    Args:
        members: stores over the same images and the same views, in any order of images; teachers,
            input sizes, k and quantizers may differ.
        weights: one non-negative number a store; equal when None.

    Raises:
        MismatchError: the members' images, views, classes or ground truth differ.
        UsageError: no members, or weights that do not fit.
    """
    return Ensemble(members, weights)


def _align(first: Store, member: Store) -> npt.NDArray[np.int64]:
    """For each image of ``first`` its position in ``member``, after checking that they fit."""
    names = f"{first.path} and {member.path}"
    if member.num_classes != first.num_classes:
        raise MismatchError(
            f"{names} have {first.num_classes} and {member.num_classes} classes, expected the same "
            "classes: these teachers cannot be averaged."
        )
    theirs, ours = member.manifest.class_names, first.manifest.class_names
    if ours is not None and theirs is not None and ours != theirs:
        raise MismatchError(f"{names} name their classes differently: they cannot be averaged.")
    if member is not first:
        _check_laws(first, member, names)
    if member is first:
        return np.arange(first.num_images)
    if member.num_images != first.num_images:
        raise MismatchError(
            f"{names} hold {first.num_images} and {member.num_images} images, expected the same "
            "images: generate both from one source."
        )
    rows = member.index_of(first.keys)
    both_known = (first.targets >= 0) & (member.targets[rows] >= 0)
    differing = np.flatnonzero(both_known & (first.targets != member.targets[rows]))
    if differing.size:
        raise MismatchError(
            f"{names} disagree on the ground truth of {differing.size} images, first "
            f"{first.keys[differing[0]]!r}: make both with the same class folders or --class-map."
        )
    _check_crops(first, member, rows, names)
    return rows


def _check_laws(first: Store, member: Store, names: str) -> None:
    if member.manifest.law != first.manifest.law:
        raise MismatchError(
            f"{names} hold different views ({first.manifest.law} and {member.manifest.law}): "
            "generate both with the same --seed, --scale, --ratio and --flip."
        )
    if first.manifest.law is None:
        raise MismatchError(
            f"{names} do not say which crops their labels belong to, so they cannot be aligned: "
            "make them with a view law or with boxes and flips."
        )


def _check_crops(first: Store, member: Store, rows: npt.NDArray[np.int64], names: str) -> None:
    """The same photos at the same size, and the same boxes where they are stored."""
    ours, theirs = np.stack(first.sizes(np.arange(len(rows)))), np.stack(member.sizes(rows))
    differing = np.flatnonzero(((ours != theirs) & (ours > 0) & (theirs > 0)).any(axis=0))
    if differing.size:
        raise MismatchError(
            f"{names} were made from photos of other sizes, {differing.size} in all, first "
            f"{first.keys[differing[0]]!r}: generate both from the same files."
        )
    if first.manifest.law != EXPLICIT:
        return
    numbers = np.arange(min(first.num_views, member.num_views))
    for image, row in enumerate(rows):
        a, b = first.views(image, numbers), member.views(int(row), numbers)
        if not (np.array_equal(a.box, b.box) and np.array_equal(a.flip, b.flip)):
            raise MismatchError(
                f"{names} hold different crops of {first.keys[image]!r}: their labels cannot be "
                "averaged."
            )
