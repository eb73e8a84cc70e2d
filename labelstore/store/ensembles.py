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
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import NotFoundError, UsageError
from labelstore.format.manifest import fingerprint
from labelstore.labels.ensemble import EnsembleTopK
from labelstore.store.alignment import Images, align
from labelstore.store.indexing import in_range, positions_of
from labelstore.store.store import opened
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from labelstore.labels.top_k import LabelType
    from labelstore.store.label_reader import LabelReader
    from labelstore.store.store import Store
    from labelstore.views.law import Views

__all__ = [
    "Ensemble",
    "Images",
    "ensemble",
    "label_type_of",
    "opened_all",
    "opened_reader",
]

_READ_AGAIN = ("keys", "key_hashes", "_replayed")
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
        alignment = align(members, images)
        first = members[0]
        self.members = members
        self.weights = factors / factors.sum()
        self._rows, self._targets = alignment.rows, alignment.targets
        self.num_images = len(self._targets)
        self.num_views = min(member.num_views for member in members)
        self.num_classes = first.num_classes
        self.path = first.path
        # Images that all members share may lack partners of mixed views: said at once.
        _ = self._replayed
        self.manifest = dataclasses.replace(
            first.manifest,
            num_images=self.num_images,
            num_views=self.num_views,
            fingerprint=fingerprint(self.keys, self._targets),
            class_names=_class_names(members),
            probe=_probe(first, self._rows[0], self.num_views),
        )
        """What the first member's says, of the images and views of the ensemble, with the names of
        the classes where any member has them: blocks are runs of its images and groups runs of its
        views, as large as the first member's."""

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

    @functools.cached_property
    def _replayed(self) -> ViewLaw | None:
        """The law over the ensemble's images; None where there is none."""
        if not isinstance(self.law, ViewLaw) or self.law.mixing is None:
            return self.law if isinstance(self.law, ViewLaw) else None
        return self.law.among(self.key_hashes)

    def member_rows(self, number: int) -> npt.NDArray[np.int64]:
        """(num_images,) int64: where member ``number`` has each of the ensemble's images."""
        return self._rows[number]

    def member_confidence(
        self, number: int
    ) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]]:
        """As ``labelstore.store.label_reader`` says."""
        member = self.members[number]
        in_ensemble = np.zeros(member.num_images, dtype=bool)
        in_ensemble[self._rows[number]] = self.labelled()
        targets = np.full(member.num_images, -1, dtype=np.int32)
        targets[self._rows[number]] = self.targets
        for rows, plane in member.iter_confidence():
            chosen = in_ensemble[rows]
            yield targets[rows][chosen], plane[chosen, : self.num_views]

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
        """(...) int64 positions of images (...) given by position or by key.

        Raises:
            NotFoundError: out of range, or no such key. UsageError: neither numbers nor keys.
        """
        return positions_of(images, self.index_of, self.num_images, "the ensemble")

    def sizes(self, images: npt.ArrayLike) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """(...) int32 widths and heights in pixels of images (...) by position; -1 where no member
        knows them."""
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
        """(...) uint64: xxh3_64 of the encoded files of images (...) by position; 0 where no member
        knows it."""
        rows = in_range(images, self.num_images, "image", "the ensemble")
        known = self.members[0].image_digests(self._rows[0][rows])
        for member, order in zip(self.members[1:], self._rows[1:], strict=True):
            if (known > 0).all():
                break
            known = np.where(known > 0, known, member.image_digests(order[rows]))
        return known

    def views(self, images: npt.ArrayLike | Sequence[str], views: npt.ArrayLike) -> Views:
        """What views are, the same for all members; as ``Store.views``."""
        rows = self.positions(images)
        columns = in_range(views, self.num_views, "view", "the ensemble")
        if self._replayed is not None:
            return self._replayed(self.key_hashes[rows], columns, *self.sizes(rows))
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


def label_type_of(store: LabelReader) -> LabelType:
    """What a store's labels are recovered to unless something else is said.

    Raises:
        UsageError: those of an ensemble's stores are of several types.
    """
    types = dict.fromkeys(member.manifest.label_type for member in store.members)
    if len(types) > 1:
        raise UsageError(
            f"the labels of the ensemble's stores are of the types {' and '.join(types)}, expected "
            "one: give stores of one type, or say in training what all are to be recovered to "
            "(label_type).",
            arguments=("label_type",),
        )
    return next(iter(types))


def opened_reader(store: LabelReader | str | os.PathLike[str]) -> LabelReader:
    """A store or an ensemble, or the store at a path or URL, which is opened.

    Raises:
        Those of ``labelstore.open``.
    """
    return opened(store) if isinstance(store, (str, os.PathLike)) else store


def opened_all(stores: Sequence[Store | str | os.PathLike[str]]) -> tuple[Store, ...]:
    """Stores of which some were given by path or URL.

    Raises:
        UsageError: one path instead of several. Those of ``labelstore.open``.
    """
    if isinstance(stores, (str, os.PathLike)):
        raise UsageError(f"{stores} was given where several stores are read: give a list of them.")
    return tuple(opened(store) for store in stores)


def _class_names(members: Sequence[Store]) -> tuple[str, ...] | None:
    """What the classes are called, by the first member that says it."""
    names = (member.manifest.class_names for member in members)
    return next((known for known in names if known is not None), None)


def _probe(
    first: Store, shared: npt.NDArray[np.int64], num_views: int
) -> tuple[Mapping[str, Any], ...]:
    """The first member's probes of views that the ensemble has."""
    entries = [entry for entry in first.manifest.probe if entry["view"] < num_views]
    rows = first.index_of([entry["key"] for entry in entries])
    return tuple(
        entry for entry, is_shared in zip(entries, np.isin(rows, shared), strict=True) if is_shared
    )
