"""Stored codes of chosen images and views, put together anew: no label is decoded.

What copies, subsets and joins of stores are made of. Every label that is written is the source's to
the last bit.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import UsageError
from labelstore.format.arrays import LABELLED, view_arrays
from labelstore.format.blocks import BlockCodes
from labelstore.format.manifest import EXPLICIT, fingerprint
from labelstore.store.lineage import TEACHERS, origin
from labelstore.views.law import ViewLaw
from labelstore.views.philox import hash_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest
    from labelstore.store.store import Store

    Codes = dict[str, npt.NDArray[Any]]
    Parts = tuple[Codes, Codes, Codes]

__all__ = ["Selection"]

BLOCKS_KEPT = 2
"""Source blocks that are kept in memory: a new block's images come from neighbours as a rule."""


class _BlocksKept:
    """Reads source blocks; keeps the last few. What several threads want is read once."""

    def __init__(self, read: Callable[[int, int], Parts], count: int) -> None:
        self._read, self._count = read, count
        self._futures: OrderedDict[tuple[int, int], Future[Parts]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, member: int, block: int) -> Parts:
        place = member, block
        with self._lock:
            future = self._futures.get(place)
            mine = future is None
            if future is None:
                future = self._futures[place] = Future()
            self._futures.move_to_end(place)
            while len(self._futures) > self._count:
                self._futures.popitem(last=False)
        if mine:
            try:
                future.set_result(self._read(member, block))
            except BaseException as error:
                with self._lock:
                    self._futures.pop(place, None)
                future.set_exception(error)
        return future.result()


@dataclasses.dataclass(frozen=True)
class Selection:
    """Images of one store or several, and views of each, in the order of a new store.

    The stores have one encoding, and are alike in all that decides what a code means.
    """

    stores: tuple[Store, ...]
    members: npt.NDArray[np.int64]
    """(N,) which store each image is of."""
    rows: npt.NDArray[np.int64]
    """(N,) where it stands there."""
    views: npt.NDArray[np.integer[Any]] | range
    """Which views are taken: (N, V), of each image its own, rising; or the same of all, a range
    from 0 on."""
    kept: int = BLOCKS_KEPT
    """Source blocks that are kept in memory: one more than there are threads that ask for codes."""

    @classmethod
    def of_store(
        cls,
        store: Store,
        rows: npt.NDArray[np.int64] | None = None,
        views: npt.NDArray[np.integer[Any]] | range | None = None,
    ) -> Selection:
        """Images of one store, by position, and their views; all of them when None."""
        chosen = np.arange(store.num_images) if rows is None else rows
        return cls(
            (store,),
            np.zeros(len(chosen), dtype=np.int64),
            chosen,
            range(store.num_views) if views is None else views,
        )

    def whole_blocks_first(self, block_images: int) -> Selection:
        """The same in another order: images of whole source blocks, which are then blocks of the
        new store and are not encoded anew, before all others; else the order stays.

        Args:
            block_images: of the new store.
        """
        sizes = np.array([store.manifest.block_images for store in self.stores])[self.members]
        counts = [store.manifest.num_blocks for store in self.stores]
        firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])[self.members]
        _, block, images = np.unique(
            firsts + self.rows // sizes, return_inverse=True, return_counts=True
        )
        whole = (images[block] == block_images) & (sizes == block_images)
        order = np.argsort(~whole, kind="stable")
        views = self.views if isinstance(self.views, range) else self.views[order]
        return dataclasses.replace(
            self, members=self.members[order], rows=self.rows[order], views=views
        )

    @property
    def num_views(self) -> int:
        """Views of each image."""
        return len(self.views) if isinstance(self.views, range) else int(self.views.shape[1])

    @property
    def size(self) -> int:
        """Views of all images together."""
        return len(self.rows) * self.num_views

    @functools.cached_property
    def keys(self) -> list[str]:
        """The images' keys, in order."""
        pairs = zip(self.members.tolist(), self.rows.tolist(), strict=True)
        return [self.stores[member].keys[row] for member, row in pairs]

    @functools.cached_property
    def targets(self) -> npt.NDArray[np.int32]:
        """(N,) int32 ground truth, -1 unknown."""
        chosen = np.empty(len(self.rows), dtype=np.int32)
        for number, store in enumerate(self.stores):
            own = self.members == number
            chosen[own] = store.targets[self.rows[own]]
        return chosen

    def manifest(self, operation: str, settings: dict[str, Any]) -> Manifest:
        """The new store's manifest: the first store's, with what differs, and without blocks and
        probes that it is too small for.

        The law becomes explicit where the images' views are not all views from 0 on: a view's
        number names its crop, so the crops are stored in its place.

        Args:
            operation, settings: what is done to the stores, as ``labelstore.store.lineage.origin``
                tells of it.

        Raises:
            UsageError: views with stages would lose their numbers. MismatchError: images are
                missing, or stand elsewhere, with which views of others are mixed.
        """
        first = self.stores[0].manifest
        if first.teacher is None:
            settings = settings | {TEACHERS: [dict(teacher) for teacher in first.teachers]}
        law = first.law
        if not isinstance(self.views, range):
            if isinstance(law, ViewLaw) and law.stages:
                raise UsageError(
                    f"{self.stores[0].path} has augmented views "
                    f"({' '.join(map(str, law.stages))}), which follow from their numbers and "
                    "cannot be stored as boxes: keep the views from 0 on."
                )
            law = EXPLICIT if law is not None else None
        if isinstance(law, ViewLaw) and law.mixing is not None:
            law.among(hash_keys(self.keys))
        keys = set(self.keys)
        probe = tuple(
            entry
            for store in self.stores
            for entry in store.manifest.probe
            if isinstance(self.views, range)
            and entry["view"] < len(self.views)
            and entry["key"] in keys
        )
        return dataclasses.replace(
            first,
            num_images=len(self.rows),
            fingerprint=fingerprint(self.keys, self.targets),
            block_images=min(first.block_images, len(self.rows)),
            num_views=self.num_views,
            group_views=min(first.group_views, self.num_views),
            law=law,
            probe=probe,
            origin=origin(operation, self.stores, settings),
        )

    def codes(self, manifest: Manifest, rows: slice) -> BlockCodes:
        """The codes of a run of the new store's images; threads may ask for several at once.

        Raises:
            IncompleteError, CorruptError: as reading the sources.
        """
        whole = self._whole_block(manifest, rows)
        if whole is not None:
            return self.stores[whole[0]].stored_block(whole[1], self.num_views)
        members, places = self.members[rows], self.rows[rows]
        sizes = np.array([store.manifest.block_images for store in self.stores])
        blocks = places // sizes[members]
        parts: tuple[Codes, Codes, Codes] = ({}, {}, {})
        for member, block in sorted({*zip(members.tolist(), blocks.tolist(), strict=True)}):
            here = np.flatnonzero((members == member) & (blocks == block))
            inner = places[here] - block * int(sizes[member])
            for part, source in zip(parts, self._blocks(member, block), strict=True):
                for name, codes in source.items():
                    if name not in part:
                        shape = (len(places), *codes.shape[1:])
                        part[name] = np.empty(shape, dtype=codes.dtype)
                    part[name][here] = codes[inner]
        images, priors, views = parts
        if not isinstance(self.views, range):
            views = self._own_views(views, self.views[rows])
        if manifest.law == EXPLICIT and "views/box" not in views:
            views |= self._crops(manifest, rows, images["images/status"] == LABELLED)
        return BlockCodes(images, priors, views)

    def _whole_block(self, manifest: Manifest, rows: slice) -> tuple[int, int] | None:
        """Store and block that a run of the new store's images are, as a whole and with its first
        views, cut into the same groups: of such a block groups are not encoded anew. None where
        there is none."""
        member = int(self.members[rows.start])
        source = self.stores[member].manifest
        block = int(self.rows[rows.start]) // source.block_images
        run = source.block_slice(block)
        alike = (
            isinstance(self.views, range)
            and source.block_images == manifest.block_images
            and source.group_views == manifest.group_views
            and (source.law == EXPLICIT) == (manifest.law == EXPLICIT)
        )
        if not alike or rows.stop - rows.start != run.stop - run.start:
            return None
        places = np.arange(run.start, run.stop)
        same = (self.members[rows] == member).all() and (self.rows[rows] == places).all()
        return (member, block) if same else None

    @functools.cached_property
    def _blocks(self) -> _BlocksKept:
        last = (
            self.views[-1]
            if isinstance(self.views, range)
            else int(self.views[:, -1].max(initial=0))
        )

        def read(member: int, block: int) -> Parts:
            return self.stores[member].block_codes(block, last + 1)

        return _BlocksKept(read, self.kept)

    @staticmethod
    def _own_views(codes: Codes, views: npt.NDArray[np.integer[Any]]) -> Codes:
        return {
            name: np.take_along_axis(array, views.reshape(*views.shape, *[1] * (array.ndim - 2)), 1)
            for name, array in codes.items()
        }

    def _crops(self, manifest: Manifest, rows: slice, labelled: npt.NDArray[np.bool_]) -> Codes:
        """Boxes and flips of views whose numbers do not tell them any more."""
        specs = {spec.name: spec for spec in view_arrays(manifest)}
        count = len(labelled)
        shape = (count, manifest.num_views)
        box_spec, flip_spec = specs["views/box"], specs["views/flip"]
        boxes = np.full((*shape, 4), box_spec.fill, dtype=box_spec.dtype)
        flips = np.full(shape, flip_spec.fill, dtype=flip_spec.dtype)
        members, places = self.members[rows], self.rows[rows]
        views = np.broadcast_to(
            np.arange(manifest.num_views) if isinstance(self.views, range) else self.views[rows],
            shape,
        )
        for number, store in enumerate(self.stores):
            own = np.flatnonzero((members == number) & labelled)
            if len(own) and isinstance(store.law, ViewLaw):
                crops = store.views(places[own][:, None], views[own])
                boxes[own], flips[own] = crops.box, crops.flip
        return {"views/box": boxes, "views/flip": flips}
