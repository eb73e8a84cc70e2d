"""Several teachers' stores read as one; the members stay separable.

The mean over teachers is taken of recovered (and, with FerKD, calibrated) labels, at read time, as
in section 3.4 of the FerKD paper. Members are aligned by image key, and refused when they do not
hold labels of the same views. Their images are the same, too, or those that all of them share are
asked for.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from labelstore.errors import MismatchError, NotFoundError, UsageError
from labelstore.format.manifest import EXPLICIT, fingerprint
from labelstore.labels.ensemble import EnsembleTopK
from labelstore.store.indexing import as_array, in_range
from labelstore.store.store import opened
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from labelstore.store.store import Store
    from labelstore.views.law import Views

__all__ = ["Ensemble", "Images", "ensemble", "opened_all", "opened_reader"]

Images = Literal["strict", "intersection"]

_READ_AGAIN = ("keys", "key_hashes")
"""Cached properties of an ensemble."""


class Ensemble:
    """Reads like a store of the images that its members share, numbered as in the first member.

    Made by ``labelstore.ensemble``.
    """

    def __init__(
        self,
        members: Sequence[Store | str | os.PathLike[str]],
        weights: Sequence[float] | None = None,
        images: Images = "strict",
    ) -> None:
        members = opened_all(members)
        if not members:
            raise UsageError("an ensemble of no stores was asked for: give at least one.")
        factors = np.asarray([1.0] * len(members) if weights is None else weights, dtype=float)
        if factors.shape != (len(members),) or factors.min() < 0 or factors.sum() <= 0:
            raise UsageError(
                f"weights are {', '.join(f'{factor:g}' for factor in factors.ravel())}, expected "
                f"{len(members)} non-negative numbers that are not all 0, one for each store."
            )
        if images not in get_args(Images):
            raise UsageError(
                f"images is {images!r}, expected one of {', '.join(get_args(Images))}: choose one."
            )
        self.members = members
        self.weights = factors / factors.sum()
        first = self.members[0]
        for member in self.members[1:]:
            _check_classes(first, member)
            if member is not first:
                _check_laws(first, member, f"{first.path} and {member.path}")
        shared = _shared(self.members, images)
        self._rows = tuple(_rows_of(first, member, shared) for member in self.members)
        self._targets = _targets(self.members, self._rows)
        self.num_images = len(shared)
        self.num_views = min(member.num_views for member in self.members)
        self.num_classes = first.num_classes
        self.path = first.path
        keys = self.keys
        for number, member in enumerate(self.members[1:], 1):
            if member is not first:
                _check_crops(self, number, keys)
        self.manifest = dataclasses.replace(
            first.manifest,
            num_images=self.num_images,
            num_views=self.num_views,
            fingerprint=fingerprint(keys, self._targets),
            probe=_probe(first, shared, self.num_views),
        )
        """What the first member's says, of the images and views of the ensemble: blocks are runs of
        its images and groups runs of its views, as large as the first member's."""

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be read again, so that DataLoader's workers start lightly."""
        return {name: value for name, value in self.__dict__.items() if name not in _READ_AGAIN}

    @property
    def id(self) -> str:
        """The members' identities and weights: what decides the labels."""
        pairs = zip(self.members, self.weights.tolist(), strict=True)
        return " ".join(f"{member.manifest.id}*{weight:.17g}" for member, weight in pairs)

    @functools.cached_property
    def keys(self) -> tuple[str, ...]:
        """The images' keys, in the first member's order."""
        first, rows = self.members[0], self._rows[0]
        if len(rows) == first.num_images:
            return first.keys
        return tuple(first.keys[row] for row in rows.tolist())

    @functools.cached_property
    def key_hashes(self) -> npt.NDArray[np.uint64]:
        """(num_images,) uint64: what names each image in the view law and in schedules."""
        return self.members[0].key_hashes[self._rows[0]]

    @property
    def targets(self) -> npt.NDArray[np.int32]:
        """(num_images,) int32 ground-truth class ids, -1 where no member knows it."""
        return self._targets

    @property
    def complete(self) -> bool:
        """Whether every member is, as far as its images are used."""
        return not self.missing_blocks()

    @property
    def law(self) -> ViewLaw | str | None:
        """The view law that all members share."""
        return self.members[0].law

    def member_rows(self, number: int) -> npt.NDArray[np.int64]:
        """(num_images,) int64: where member ``number`` has each of the ensemble's images."""
        return self._rows[number]

    def missing_blocks(self) -> list[int]:
        """Blocks of the ensemble's images (``manifest.block_slice``) that lack labels somewhere."""
        missing: set[int] = set()
        for member, rows in zip(self.members, self._rows, strict=True):
            absent = member.missing_blocks()
            if absent:
                lacking = np.isin(rows // member.manifest.block_images, absent)
                missing.update(np.flatnonzero(lacking) // self.manifest.block_images)
        return sorted(int(block) for block in missing)

    def labelled(self) -> npt.NDArray[np.bool_]:
        """(num_images,) bool: whether every member holds labels of the image."""
        together = np.ones(self.num_images, dtype=bool)
        for member, rows in zip(self.members, self._rows, strict=True):
            together &= member.labelled()[rows]
        return together

    def index_of(self, keys: str | Sequence[str]) -> npt.NDArray[np.int64]:
        """(n,) int64 positions of images by key, of one key () int64.

        Raises:
            NotFoundError: names a key that is not there.
        """
        if isinstance(keys, str):
            return self.index_of([keys]).reshape(())
        first, shared = self.members[0], self._rows[0]
        rows = first.index_of(keys)
        # The shared rows rise, as their images are numbered in the first member's order.
        places = np.minimum(np.searchsorted(shared, rows), len(shared) - 1)
        absent = np.flatnonzero(shared[places] != rows)
        if absent.size:
            raise NotFoundError(
                f"{keys[absent[0]]!r} is an image of {first.path} and not of every member of the "
                "ensemble: leave it out, or generate its labels with the other teachers, too."
            )
        return places.astype(np.int64)

    def positions(self, images: npt.ArrayLike | Sequence[str]) -> npt.NDArray[np.int64]:
        """Positions of images given by position or by key; NotFoundError when out of range."""
        given = as_array(images, "image")
        if given.dtype.kind in "US":
            return self.index_of([str(key) for key in given.reshape(-1)]).reshape(given.shape)
        return in_range(given, self.num_images, "image", "the ensemble")

    def sizes(self, images: npt.ArrayLike) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Widths and heights of images by position, in pixels; -1 where no member knows them."""
        rows = in_range(images, self.num_images, "image", "the ensemble")
        width, height = self.members[0].sizes(self._rows[0][rows])
        for member, order in zip(self.members[1:], self._rows[1:], strict=True):
            if (width > 0).all() and (height > 0).all():
                break
            theirs = member.sizes(order[rows])
            unknown = (width <= 0) | (height <= 0)
            width = np.where(unknown, theirs[0], width)
            height = np.where(unknown, theirs[1], height)
        return width, height

    def image_digests(self, images: npt.ArrayLike) -> npt.NDArray[np.uint64]:
        """xxh3_64 of the encoded files of images by position; 0 where no member knows it."""
        rows = in_range(images, self.num_images, "image", "the ensemble")
        known = self.members[0].image_digests(self._rows[0][rows])
        for member, order in zip(self.members[1:], self._rows[1:], strict=True):
            if (known > 0).all():
                break
            known = np.where(known > 0, known, member.image_digests(order[rows]))
        return known

    def views(self, images: npt.ArrayLike | Sequence[str], views: npt.ArrayLike) -> Views:
        """Boxes and flips of views, the same for all members; as ``Store.views``."""
        rows = self.positions(images)
        columns = in_range(views, self.num_views, "view", "the ensemble")
        if isinstance(self.law, ViewLaw):
            return self.law(self.key_hashes[rows], columns, *self.sizes(rows))
        return self.members[0].views(self._rows[0][rows], columns)

    def read(self, images: npt.ArrayLike | Sequence[str], views: npt.ArrayLike) -> EnsembleTopK:
        """Labels of views from every member; the arguments are those of ``Store.read``."""
        rows = self.positions(images)
        columns = in_range(views, self.num_views, "view", "the ensemble")
        return EnsembleTopK(
            tuple(
                member.read(order[rows], columns)
                for member, order in zip(self.members, self._rows, strict=True)
            ),
            self.weights,
        )


def ensemble(
    members: Sequence[Store | str | os.PathLike[str]],
    weights: Sequence[float] | None = None,
    images: Images = "strict",
) -> Ensemble:
    """Open the (weighted) mean of several teachers' stores.

    Args:
        members: stores of the same views, open or as paths or URLs, in any order of images;
            teachers, input sizes, k and quantizers may differ, and so may the number of views (the
            first ones of each image are the same; as many are read as all members have).
        weights: one non-negative number a store; equal when None.
        images: ``"strict"``: all members hold the same images; ``"intersection"``: only the images
            that all of them hold are read, in the first member's order.

    Raises:
        MismatchError: the members' images, views, classes or ground truth differ, or they share no
            image.
        UsageError: no members, weights that do not fit, or another value of ``images``.
    """
    return Ensemble(members, weights, images)


def opened_reader(store: Store | Ensemble | str | os.PathLike[str]) -> Store | Ensemble:
    """What reads like a store, or the store at a path or URL, which is opened.

    Raises:
        Those of ``labelstore.open``.
    """
    return store if isinstance(store, Ensemble) else opened(store)


def opened_all(stores: Sequence[Store | str | os.PathLike[str]]) -> tuple[Store, ...]:
    """Stores of which some were given by path or URL.

    Raises:
        UsageError: one path instead of several. Those of ``labelstore.open``.
    """
    if isinstance(stores, (str, os.PathLike)):
        raise UsageError(f"{stores} was given where several stores are read: give a list of them.")
    return tuple(opened(store) for store in stores)


def _check_classes(first: Store, member: Store) -> None:
    names = f"{first.path} and {member.path}"
    if member.num_classes != first.num_classes:
        raise MismatchError(
            f"{names} have {first.num_classes} and {member.num_classes} classes, expected the same "
            "classes: these teachers cannot be averaged."
        )
    theirs, ours = member.manifest.class_names, first.manifest.class_names
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
        held = np.fromiter((key in theirs for key in first.keys), bool, first.num_images)
        if images == "strict":
            _check_images(first, member, held)
        shared &= held
    if not shared.any():
        raise MismatchError(
            f"{' and '.join(str(member.path) for member in members)} share no image (the first "
            f"key of each is {', '.join(repr(member.keys[0]) for member in members)}): keys are "
            "paths relative to the source folder, so generate all from one folder."
        )
    return np.flatnonzero(shared)


def _check_images(first: Store, member: Store, held: npt.NDArray[np.bool_]) -> None:
    """MismatchError that names the first image that only one of two stores holds."""
    if held.all() and member.num_images == first.num_images:
        return
    if not held.all():
        owner, key = first, first.keys[int(np.argmin(held))]
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


def _targets(
    members: tuple[Store, ...], rows: tuple[npt.NDArray[np.int64], ...]
) -> npt.NDArray[np.int32]:
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


def _probe(
    first: Store, shared: npt.NDArray[np.int64], num_views: int
) -> tuple[Mapping[str, Any], ...]:
    """The first member's probes of views that the ensemble has."""
    entries = [entry for entry in first.manifest.probe if entry["view"] < num_views]
    rows = first.index_of([entry["key"] for entry in entries])
    return tuple(entry for entry, held in zip(entries, np.isin(rows, shared), strict=True) if held)


def _check_laws(first: Store, member: Store, names: str) -> None:
    if member.manifest.law != first.manifest.law:
        raise MismatchError(
            f"{names} hold different views ({_told(first.law)} and {_told(member.law)}): "
            "generate both with the same seed, scale, ratio and flip."
        )
    if first.manifest.law is None:
        raise MismatchError(
            f"{names} do not say which crops their labels belong to, so they cannot be aligned: "
            "make them with a view law or with boxes and flips."
        )


def _check_files(both: Ensemble, number: int, keys: tuple[str, ...]) -> None:
    """The same files as those of every member before, where both know their digests."""
    member = both.members[number]
    digests = member.image_digests(both.member_rows(number))
    for place, other in enumerate(both.members[:number]):
        theirs = other.image_digests(both.member_rows(place))
        differing = np.flatnonzero((digests != theirs) & (digests > 0) & (theirs > 0))
        if differing.size:
            raise MismatchError(
                f"{other.path} and {member.path} were made from other files under the same keys, "
                f"{differing.size} in all, first {keys[differing[0]]!r}: generate both from the "
                "same files."
            )


def _told(law: ViewLaw | str | None) -> str:
    if isinstance(law, ViewLaw):
        scale, ratio = (
            " to ".join(f"{bound:.4g}" for bound in part) for part in (law.scale, law.ratio)
        )
        return f"seed {law.seed}, scale {scale}, ratio {ratio}, flip {law.flip:.4g}"
    return "stored boxes" if law == EXPLICIT else "unknown ones"


def _check_crops(both: Ensemble, number: int, keys: tuple[str, ...]) -> None:
    """The same files at the same size, and the same boxes where they are stored."""
    first, member = both.members[0], both.members[number]
    names = f"{first.path} and {member.path}"
    rows, order = both.member_rows(0), both.member_rows(number)
    ours, theirs = np.stack(first.sizes(rows)), np.stack(member.sizes(order))
    differing = np.flatnonzero(((ours != theirs) & (ours > 0) & (theirs > 0)).any(axis=0))
    if differing.size:
        raise MismatchError(
            f"{names} were made from photos of other sizes, {differing.size} in all, first "
            f"{keys[differing[0]]!r}: generate both from the same files."
        )
    _check_files(both, number, keys)
    if first.manifest.law != EXPLICIT:
        return
    numbers = np.arange(min(first.num_views, member.num_views))
    for image, (row, place) in enumerate(zip(rows.tolist(), order.tolist(), strict=True)):
        a, b = first.views(row, numbers), member.views(place, numbers)
        if not (np.array_equal(a.box, b.box) and np.array_equal(a.flip, b.flip)):
            raise MismatchError(
                f"{names} hold different crops of {keys[image]!r}: their labels cannot be averaged."
            )
