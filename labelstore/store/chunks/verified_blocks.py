"""Whole blocks, read, compared with their digests, and checked for what cannot be meant.

Where labels are read, which of their images could not be read is the one thing that is not compared
unless it matters (``_unreadable_of``). Nothing is kept but that, and lists of likely classes.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import CorruptError
from labelstore.format.arrays import (
    IMAGES_COLUMN,
    LABELLED,
    PRIOR_COLUMN,
    UNREADABLE,
    image_arrays,
    images_digest,
    prior_arrays,
)
from labelstore.format.blocks import BlockCodes, StoredArray
from labelstore.format.validity import (
    are_surely_labels,
    image_problem,
    label_problem,
    prior_problem,
    top_problem,
)
from labelstore.store.chunks.committed_blocks import CommittedBlocks
from labelstore.store.chunks.prior_lists import PriorLists

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.format.arrays import ArraySpec
    from labelstore.format.manifest import Manifest
    from labelstore.store.backends.protocol import Backend

    Codes = dict[str, npt.NDArray[Any]]

__all__ = ["VerifiedBlocks"]

_STATUS = "images/status"

_SOME_BYTES = 2**20
"""Bytes of chunks that are looked at together, about: they stay in a processor's cache."""


class VerifiedBlocks(CommittedBlocks):
    """Reads a store's blocks.

    Every method that reads raises IncompleteError for a block that is not committed and
    CorruptError for what is not as it was committed, or is no label.
    """

    def __init__(self, backend: Backend, manifest: Manifest, path: Path | str) -> None:
        """As ``CommittedBlocks``; nothing is read yet."""
        super().__init__(backend, manifest, path)
        self._unreadable: dict[int, npt.NDArray[np.bool_]] = {}
        self.prior_lists = PriorLists(self)
        """The lists of likely classes that have been read."""

    def refresh(self) -> None:
        """Look again at what is committed, and at what is kept of it."""
        super().refresh()
        self._unreadable = {}
        self.prior_lists.use(None)

    def images(self, block: int) -> Codes:
        """The measured image arrays of a block."""
        return next(self.images_of([block]))

    def images_of(self, blocks: Sequence[int]) -> Iterator[Codes]:
        """The measured image arrays of some blocks, in order."""
        for block, codes in self._blocks_of(blocks, image_arrays(self.manifest)):
            if images_digest(self.manifest.id, block, codes) != self._commit(block)[IMAGES_COLUMN]:
                raise self.corrupt("images", block, None)
            self._require_none(image_problem(codes), _STATUS, block, None)
            self._unreadable[block] = codes[_STATUS] == UNREADABLE
            yield codes

    def _unreadable_of(self, blocks: Sequence[int]) -> list[npt.NDArray[np.bool_]]:
        """(n,) bool for each block: which of its images could not be read.

        A status that says that all images have labels is believed, since its digest is one with
        that of sizes and digests: labels that match theirs and are labels are there, whatever it
        should say. It is compared where it says otherwise, and before labels are said to be none
        (``_require_none``).
        """
        missing = [block for block in dict.fromkeys(blocks) if block not in self._unreadable]
        if missing:
            status = [spec for spec in image_arrays(self.manifest) if spec.name == _STATUS]
            statuses = [codes[_STATUS] for _, codes in self._blocks_of(missing, status)]
            starts = np.cumsum([0, *map(len, statuses[:-1])])
            labelled = np.logical_and.reduceat(np.concatenate(statuses) == LABELLED, starts)
            none = np.zeros(max(map(len, statuses)), dtype=bool)
            for block, codes, whole in zip(missing, statuses, labelled.tolist(), strict=True):
                if whole:
                    self._unreadable[block] = none[: len(codes)]
            for _ in self.images_of([block for block in missing if block not in self._unreadable]):
                pass
        return [self._unreadable[block] for block in blocks]

    def require_blocks(self, blocks: Sequence[int]) -> None:
        """IncompleteError, CorruptError: a block is not there as it was committed."""
        self._unreadable_of(blocks)

    def images_there(self, blocks: Sequence[int]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """What labels of some committed blocks' images are compared with.

        Returns:
            of all images of the store, of which those of the blocks alone are right: (N, m) codes
            of their lists, m may be 0, and (N,) bool which could not be read.
        """
        for block in blocks:
            self._require_committed(block)
        unreadable = np.zeros(self.manifest.num_images, dtype=bool)
        for block, rows in zip(blocks, self._unreadable_of(blocks), strict=True):
            unreadable[self.manifest.block_slice(block)] = rows
        if not self.manifest.prior_size:
            return np.empty((len(unreadable), 0), np.uint16), unreadable
        return self.prior_lists.read(np.array(blocks))["images/prior_classes"], unreadable

    def _blocks_of(
        self, blocks: Sequence[int], specs: Sequence[ArraySpec]
    ) -> Iterator[tuple[int, Codes]]:
        """Blocks and their codes of arrays without views, not compared with anything."""
        runs: list[tuple[str, slice, slice | None]] = []
        for block in blocks:
            self._require_committed(block)
            rows = self.manifest.block_slice(block)
            runs += [(spec.name, rows, None) for spec in specs]
        arrays = self._backend.read_many(runs)
        for block in blocks:
            yield block, {spec.name: next(arrays) for spec in specs}

    def prior_codes(self, block: int) -> Codes:
        """Codes of the prior lists of a block's images; not kept."""
        return next(self.prior_codes_of([block]))

    def prior_codes_of(self, blocks: Sequence[int]) -> Iterator[Codes]:
        """Codes of the prior lists of some blocks' images, in order; not kept."""
        for block, codes in self._blocks_of(blocks, prior_arrays(self.manifest)):
            if (
                images_digest(self.manifest.id, block, codes, "prior")
                != self._commit(block)[PRIOR_COLUMN]
            ):
                raise self.corrupt("images/prior_classes", block, None)
            problem = prior_problem(codes, self.manifest.num_classes)
            self._require_none(problem, "images/prior_classes", block, None)
            yield codes

    def top_probs_of(self, blocks: Sequence[int]) -> Iterator[npt.NDArray[Any]]:
        """(n, V) codes of the largest probabilities of some blocks, all views; not kept."""
        name, runs, columns = "labels/top_prob", [], slice(0, self.manifest.num_views)
        for block in blocks:
            self._require_committed(block)
            runs.append((name, self.manifest.block_slice(block), columns))
        fill = next(spec.fill for spec in self._specs if spec.name == name)
        unreadable = self._unreadable_of(blocks)
        planes = self._backend.read_many(runs)
        for block, codes, rows in zip(blocks, planes, unreadable, strict=True):
            self._check_groups(name, block, codes)
            problem = top_problem(codes, rows, self.manifest, fill)
            self._require_none(problem, name, block, None)
            yield codes

    def block_codes(self, block: int, num_views: int) -> tuple[Codes, Codes, Codes]:
        """All codes of a block's first views: measured, prior lists', views'; not kept."""
        self._require_committed(block)
        if num_views < self.manifest.num_views:
            return self._block_codes(block, num_views)
        with self._fetched(block):
            return self._block_codes(block, num_views)

    def stored_block(self, block: int, num_views: int) -> BlockCodes:
        """All codes of a block's first views, with the objects that they were decoded from; not
        kept."""
        self._require_committed(block)
        groups = -(-num_views // self.manifest.group_views)
        try:
            whole_block = groups == self.manifest.num_groups
            objects = self._backend.hold_block(block, None if whole_block else groups)
            whole = self._block_codes(block, self.manifest.group_slice(groups - 1).stop)
        finally:
            self._backend.release_block(block)
        images, priors, views = whole
        decoded = {**images, **priors, **views}
        stored = {name: StoredArray(held, decoded[name]) for name, held in objects.items()}
        first = {name: codes[:, :num_views] for name, codes in views.items()}
        return BlockCodes(images, priors, first, stored)

    @contextmanager
    def _fetched(self, block: int) -> Iterator[None]:
        """All of a block is read meanwhile."""
        self._backend.fetch_block(block)
        try:
            yield
        finally:
            self._backend.release_block(block)

    def _block_codes(self, block: int, num_views: int) -> tuple[Codes, Codes, Codes]:
        images = self.images(block)
        priors = self.prior_codes(block) if self.manifest.prior_size else {}
        # Groups are verified whole.
        last = (num_views - 1) // self.manifest.group_views
        columns = slice(0, self.manifest.group_slice(last).stop)
        rows = self.manifest.block_slice(block)
        arrays = self._backend.read_many([(spec.name, rows, columns) for spec in self._specs])
        views: Codes = {}
        for spec, codes in zip(self._specs, arrays, strict=True):
            self._check_groups(spec.name, block, codes)
            views[spec.name] = codes
        self._require_labels(views, block, None, priors)
        return images, priors, {name: codes[:, :num_views] for name, codes in views.items()}

    def _fetch_chunks(self, places: Sequence[tuple[int, int]]) -> Iterator[Codes]:
        """Chunks of (block, group), in order, from the backend, compared with their digests."""
        runs = []
        for block, group in places:
            rows, columns = self.manifest.block_slice(block), self.manifest.group_slice(group)
            runs += [(spec.name, rows, columns) for spec in self._specs]
        arrays = self._backend.read_many(runs)
        chunks = ({spec.name: next(arrays) for spec in self._specs} for _ in places)
        yield from self._checked_chunks(places, chunks)

    def _checked_chunks(
        self, places: Sequence[tuple[int, int]], chunks: Iterator[Codes]
    ) -> Iterator[Codes]:
        """Chunks, compared with their digests, some at a time."""
        for some in _some_at_a_time(places, chunks):
            own = [place for place, _ in some]
            wrong = {
                spec.name: self._are_wrong(spec.name, own, [codes[spec.name] for _, codes in some])
                for spec in self._specs
            }
            for number, (place, codes) in enumerate(some):
                for name, those in wrong.items():
                    if those[number]:
                        raise self.corrupt(name, *place)
                yield codes

    def _labels_among(
        self,
        places: Sequence[tuple[int, int]],
        chunks: Iterator[Codes],
        priors: Codes | None = None,
    ) -> Iterator[Codes]:
        """Chunks, which match their digests, up to the first one that is none of labels; looked at
        some at a time. ``priors`` as for ``_require_labels``."""
        for some in _some_at_a_time(places, chunks):
            blocks = list(dict.fromkeys(block for (block, _), _ in some))
            lists = {block: self._lists_of([block], priors) for block in blocks}
            are_labels = not any(rows.any() for rows in self._unreadable_of(blocks))
            if are_labels:
                of_lists = [(codes, lists[block]) for (block, _), codes in some]
                are_labels = are_surely_labels(of_lists, self.manifest)
            for place, codes in some:
                if not are_labels:
                    self._require_labels(codes, *place, priors)
                yield codes

    def _read_run(self, blocks: range, group: int) -> Codes:
        """Codes (images of all, views, ...) of a group of views of blocks side by side, verified;
        not kept."""
        for block in blocks:
            self._require_committed(block)
        unreadable = np.concatenate(self._unreadable_of(blocks))
        rows, columns = self._rows_of(blocks), self.manifest.group_slice(group)
        arrays = self._backend.read_many([(spec.name, rows, columns) for spec in self._specs])
        codes = {spec.name: part for spec, part in zip(self._specs, arrays, strict=True)}
        cut = (self._part_of(codes, block, rows.start) for block in blocks)
        checked = self._checked_chunks([(block, group) for block in blocks], cut)
        parts = dict(zip(blocks, checked, strict=True))
        lists = self._lists_of(blocks)
        problem = label_problem(codes, self._specs, lists, unreadable, self.manifest)
        if problem is not None:
            # Which block's labels they are.
            for block, part in parts.items():
                self._require_labels(part, block, group)
        self._require_none(problem, "labels", blocks[0], group)
        return codes

    def _rows_of(self, blocks: Sequence[int]) -> slice:
        """The images of blocks side by side."""
        first, last = (self.manifest.block_slice(block) for block in (blocks[0], blocks[-1]))
        return slice(first.start, last.stop)

    def _part_of(self, codes: Codes, block: int, first: int) -> Codes:
        """Those of a block, of codes of the images from ``first`` on."""
        rows = self.manifest.block_slice(block)
        return {name: part[rows.start - first : rows.stop - first] for name, part in codes.items()}

    def _lists_of(self, blocks: Sequence[int], priors: Codes | None = None) -> npt.NDArray[Any]:
        """(n, m) codes of the lists of the images of blocks side by side, of ``priors`` where these
        are at hand; m is 0 where class ids are no ranks in them."""
        rows = self._rows_of(blocks)
        if not self.manifest.prior_size or self.manifest.encoding != "codes":
            return np.empty((rows.stop - rows.start, 0), np.uint16)
        if priors is not None:
            return priors["images/prior_classes"]
        numbers = np.array(blocks)
        every, read = self.prior_lists.arrays()
        if not read[numbers].all():
            every = self.prior_lists.read(numbers)
        return every["images/prior_classes"][rows]

    def _require_labels(
        self, codes: Codes, block: int, group: int | None, priors: Codes | None = None
    ) -> None:
        """CorruptError unless codes of a block's images, which match their digests, are labels.

        ``priors`` are the codes of their lists, where these are at hand."""
        (unreadable,) = self._unreadable_of([block])
        problem = label_problem(
            codes, self._specs, self._lists_of([block], priors), unreadable, self.manifest
        )
        self._require_none(problem, "labels", block, group)

    def _require_none(self, problem: str | None, name: str, block: int, group: int | None) -> None:
        """CorruptError of what was committed and cannot be meant, where there is a problem."""
        if problem is not None:
            if name != _STATUS:
                # CorruptError, if what says which images have labels was changed.
                self.images(block)
            raise CorruptError(
                f"{self.path}/{name}: {self._place(block, group)} holds what is no label "
                f"({problem}): what wrote it was at fault; make this block again (labelstore "
                "repair), or the store.",
                array=name,
                block=block,
                images=self._images_of(block),
            )

    def require_labels_of(self, problem: str, block: int, group: int) -> None:
        """Raise the CorruptError of labels that were committed and are none."""
        self._require_none(problem, "labels", block, group)


def _some_at_a_time(
    places: Sequence[tuple[int, int]], chunks: Iterator[Codes]
) -> Iterator[list[tuple[tuple[int, int], Codes]]]:
    """Chunks with their places, as many together as have ``_SOME_BYTES``."""
    some: list[tuple[tuple[int, int], Codes]] = []
    held = 0
    for place, codes in zip(places, chunks, strict=True):
        some.append((place, codes))
        held += sum(part.nbytes for part in codes.values())
        if held >= _SOME_BYTES:
            yield some
            some, held = [], 0
    if some:
        yield some
