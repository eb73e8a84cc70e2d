"""Blocks and chunks as they were committed: all that is read here is compared with its digest.

A chunk is one block's group of views: what lies together on disk. Where labels lie in units, those
that are read at random are read unit by unit (``random_units``). Where labels are read, which of
their images could not be read is the one thing that is not compared unless it matters
(``_unreadable_of``).
"""

from __future__ import annotations

import functools
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from labelstore.errors import CorruptError, IncompleteError, StoreError
from labelstore.format.arrays import (
    IMAGES_COLUMN,
    LABELLED,
    PRIOR_COLUMN,
    UNREADABLE,
    array_digest,
    image_arrays,
    images_digest,
    prior_arrays,
    view_arrays,
    view_columns,
)
from labelstore.format.blocks import BlockCodes, StoredArray
from labelstore.format.validity import image_problem, label_problem, prior_problem, top_problem
from labelstore.storage.location import is_remote
from labelstore.store.backends.npy import MappedBackend
from labelstore.store.chunks.disk_cache import ChunkFiles, KeptChunks
from labelstore.store.chunks.memory_cache import ChunkCache, flat_take
from labelstore.store.chunks.prior_lists import PriorLists
from labelstore.store.chunks.random_units import RandomUnits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.format.arrays import ArraySpec
    from labelstore.format.manifest import Manifest
    from labelstore.store.backends.protocol import Backend

    Codes = dict[str, npt.NDArray[Any]]

__all__ = ["BlockReader"]


_MOST_THREADS = 8
"""Threads that read and decompress chunks, at most."""

_GROUPS_CHECKED = 32
"""Groups of views of a block that are read together where a block is checked."""

_UNPROVED_IMAGES = 2**24
"""Images that a manifest may claim before commit rows of all blocks are looked for."""

_STATUS = "images/status"


class BlockReader:
    """Reads a store's blocks; keeps prior lists, and chunks within a bound.

    Every method that reads labels raises IncompleteError for a block that is not committed and
    CorruptError for what is not as it was committed.
    """

    def __init__(
        self, backend: Backend, manifest: Manifest, path: Path | str, cache_bytes: int
    ) -> None:
        """``path`` is for messages; ``cache_bytes`` of codes are kept, but at least one chunk."""
        self.manifest = manifest
        self.path = path
        self._backend = backend
        self._specs = view_arrays(manifest)
        self._columns = view_columns(manifest)
        self._part_of = {spec.name: part for part, spec in enumerate(self._specs)}
        num_chunks = manifest.num_blocks * manifest.num_groups
        chunk_shape = (
            min(manifest.block_images, manifest.num_images),
            min(manifest.group_views, manifest.num_views),
        )
        self._pool = ChunkCache(self._specs, chunk_shape, num_chunks, cache_bytes)
        # A materialized copy lies in memory as it is: its chunks are compared with their digests
        # when they are met first, and then read where they are.
        self._mapped: Codes = backend.mapped if isinstance(backend, MappedBackend) else {}
        self._known: dict[int, npt.NDArray[np.uint64]] = {}
        self._checked = np.zeros(num_chunks if self._mapped else 0, dtype=bool)
        files = ChunkFiles.of_environment() if isinstance(path, str) else None
        self._kept = KeptChunks(files, manifest, self._digest) if files else None
        units = backend.units
        self._units = None if units is None else RandomUnits(units, self, cache_bytes)
        self._unreadable: dict[int, npt.NDArray[np.bool_]] = {}
        self.prior_lists = PriorLists(self)
        """The lists of likely classes that have been read."""

    @property
    def in_memory(self) -> bool:
        """Whether the labels lie in mapped files as they are, so that slabs would be of no use."""
        return bool(self._mapped)

    @property
    def threads(self) -> int:
        """How many threads read and decompress chunks at a time."""
        # Processes that were started to share the work have one each. Parquet's open files are
        # shared and must be used by one thread at a time; a remote backend has threads of its own.
        alone = self.manifest.encoding != "codes" or isinstance(self.path, str)
        if alone or multiprocessing.parent_process() is not None:
            return 1
        return min(os.cpu_count() or 1, _MOST_THREADS)

    @property
    def cached_bytes(self) -> int:
        """Bytes of the chunks, and units, that are kept."""
        return self._pool.used_bytes + (0 if self._units is None else self._units.used_bytes)

    @functools.cached_property
    def _commits(self) -> npt.NDArray[np.uint64]:
        return self._backend.read_commits()

    def _commit(self, block: int) -> npt.NDArray[np.uint64]:
        """(columns,) commit row of a block: of all that are read, or of the few that are known."""
        known = None if "_commits" in self.__dict__ else self._known.get(block)
        row: npt.NDArray[np.uint64] = self._commits[block] if known is None else known
        return row

    def _know(self, blocks: Sequence[int]) -> None:
        """Have the commit rows of blocks: of a store of many blocks, these alone are looked at."""
        manifest = self.manifest
        most = 2 * len(blocks) >= manifest.num_blocks
        if "_commits" in self.__dict__ or most or manifest.num_images > _UNPROVED_IMAGES:
            # So many images must be there before anything is made of their number.
            _ = self._commits
            return
        missing = [block for block in blocks if block not in self._known]
        if missing:
            rows = self._backend.read_commits(missing)
            self._known.update(zip(missing, rows, strict=True))

    def committed(
        self, blocks: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.uint64]:
        """(n,) digests of commit rows: of each block (n,) that in its column (n,); 0 where none
        is."""
        every, which = np.unique(blocks, return_inverse=True)
        rows = np.stack([self._commit(block) for block in every.tolist()])
        digests: npt.NDArray[np.uint64] = rows[which, columns]
        return digests

    def missing_blocks(self) -> list[int]:
        """Blocks that are not committed."""
        return [int(block) for block in np.flatnonzero(self._commits[:, 0] == 0)]

    def committed_blocks(self) -> list[int]:
        """Blocks that are."""
        return [int(block) for block in np.flatnonzero(self._commits[:, 0])]

    def refresh(self) -> None:
        """Look again at what is committed, and at all that is kept of it."""
        self.__dict__.pop("_commits", None)
        self._known = {}
        self._pool.clear()
        if self._units is not None:
            self._units.clear()
        self._checked[:] = False
        self._unreadable = {}
        self.prior_lists.use(None)

    @property
    def all_commits(self) -> npt.NDArray[np.uint64]:
        """(blocks, parts) commit rows; zeros where a block is not committed."""
        return self._commits

    def commits_digest(self) -> str:
        """32 hexadecimal digits of all commit rows: other ones where any label is another."""
        return str(xxhash.xxh3_128_hexdigest(np.ascontiguousarray(self._commits).tobytes()))

    def commits(self, block_stop: int, group: int | None) -> npt.NDArray[np.uint64]:
        """(block_stop, parts) commit digests of the first blocks' chunks of one group of views.

        Of the prior lists for None; 0 where a block is not committed.
        """
        columns = [PRIOR_COLUMN]
        if group is not None:
            columns = [self._columns[spec.name][group] for spec in self._specs]
        return self._commits[:block_stop, columns]

    def images(self, block: int) -> Codes:
        """The measured image arrays of a block."""
        return next(self.images_of([block]))

    def images_of(self, blocks: Sequence[int]) -> Iterator[Codes]:
        """The measured image arrays of some blocks, in order."""
        for block, found in self._blocks_of(blocks, image_arrays(self.manifest)):
            if images_digest(self.manifest.id, block, found) != self._commit(block)[IMAGES_COLUMN]:
                raise self.corrupt("images", block, None)
            self._require_none(image_problem(found), _STATUS, block, None)
            self._unreadable[block] = found[_STATUS] == UNREADABLE
            yield found

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
            found = [codes[_STATUS] for _, codes in self._blocks_of(missing, status)]
            starts = np.cumsum([0, *map(len, found[:-1])])
            labelled = np.logical_and.reduceat(np.concatenate(found) == LABELLED, starts)
            none = np.zeros(max(map(len, found)), dtype=bool)
            for block, codes, whole in zip(missing, found, labelled.tolist(), strict=True):
                if whole:
                    self._unreadable[block] = none[: len(codes)]
            for _ in self.images_of([block for block in missing if block not in self._unreadable]):
                pass
        return [self._unreadable[block] for block in blocks]

    def require_blocks(self, blocks: Sequence[int]) -> None:
        """IncompleteError, CorruptError: a block is not there as it was committed."""
        self._unreadable_of(blocks)

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
        fill = self._specs[self._part_of[name]].fill
        unreadable = self._unreadable_of(blocks)
        planes = self._backend.read_many(runs)
        for block, codes, rows in zip(blocks, planes, unreadable, strict=True):
            for group in range(self.manifest.num_groups):
                self._check(name, block, group, codes[:, self.manifest.group_slice(group)])
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
        if num_views < self.manifest.num_views and is_remote(self.path):
            # All views would be sent for the sake of a few.
            return BlockCodes(*self.block_codes(block, num_views))
        self._require_committed(block)
        groups = -(-num_views // self.manifest.group_views)
        try:
            objects = self._backend.hold_block(block)
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
        groups = range(-(-num_views // self.manifest.group_views))
        columns = slice(0, self.manifest.group_slice(groups[-1]).stop)
        rows = self.manifest.block_slice(block)
        arrays = self._backend.read_many([(spec.name, rows, columns) for spec in self._specs])
        views: Codes = {}
        for spec, codes in zip(self._specs, arrays, strict=True):
            for group in groups:
                part = codes[:, self.manifest.group_slice(group)]
                self._check(spec.name, block, group, part)
            views[spec.name] = codes
        self._require_labels(views, block, None, priors)
        return images, priors, {name: codes[:, :num_views] for name, codes in views.items()}

    def gather(self, images: npt.NDArray[np.int64], views: npt.NDArray[np.int64]) -> Codes:
        """Codes (n, ...) of views, by array name; both arguments are (n,)."""
        manifest = self.manifest
        if self._units is not None and self._kept is None:
            self._know(np.unique(images // manifest.block_images).tolist())
            return self._units.gather(images, views)
        # Before anything is made of their size: these rows have to be there.
        _ = self._commits
        blocks, rows = np.divmod(images, manifest.block_images)
        groups, columns = np.divmod(views, manifest.group_views)
        chunks = blocks * manifest.num_groups + groups
        if not isinstance(self._backend, MappedBackend):
            return self._pool.take(chunks, rows, columns, self._load)
        if self._backend.touched():
            self._checked[:] = False
        if not self._checked[chunks].all():
            unseen = np.unique(chunks[~self._checked[chunks]])
            self._load(unseen.tolist())
            self._checked[unseen] = True
        places = images * manifest.num_views + views
        return {name: flat_take(array, places, 2) for name, array in self._mapped.items()}

    def entry(self, image: int, view: int) -> Codes | None:
        """Codes (...) of one view, by array name; None where its chunk has to be read first."""
        manifest = self.manifest
        if self._units is not None and self._kept is None:
            return self._units.entry(image, view)
        block, row = divmod(image, manifest.block_images)
        group, column = divmod(view, manifest.group_views)
        chunk = block * manifest.num_groups + group
        if not self._mapped:
            return self._pool.entry(chunk, row, column)
        if isinstance(self._backend, MappedBackend) and self._backend.touched():
            self._checked[:] = False
        if not self._checked[chunk]:
            return None
        return {name: array[image, view] for name, array in self._mapped.items()}

    def read_chunks(
        self,
        places: Sequence[tuple[int, int]],
        priors: Codes | None = None,
        *,
        units: bool = False,
    ) -> Iterator[Codes]:
        """All codes of some (block, group), in order; not kept in memory.

        ``priors``: codes of the lists of the images, where all are of one block, and these are at
        hand; else those of the blocks are read, and kept. ``units``: where labels lie in units,
        what says where each is, and what it has to be, is compared, too.
        """
        blocks = [block for block, _ in places]
        for block in blocks:
            self._require_committed(block)
        self._unreadable_of(blocks)
        if self.manifest.prior_size and self.manifest.encoding == "codes" and priors is None:
            self.prior_lists.read(np.unique(blocks))
        chunks = self._verified_chunks(places, units=units)
        for place, codes in zip(places, chunks, strict=True):
            self._require_labels(codes, *place, priors)
            yield codes

    def _verified_chunks(
        self, places: Sequence[tuple[int, int]], *, units: bool = False
    ) -> Iterator[Codes]:
        """As ``read_chunks``, compared with digests alone."""
        if units and self._units is not None:
            return self._checked_chunks(places, self._units.whole_groups(places))
        if self._kept is None:
            return self._fetch_chunks(places)
        return self._kept.read(places, self._fetch_chunks)

    def _digest(self, name: str, block: int, group: int) -> int:
        """The commit digest of an array's chunk."""
        return int(self._commit(block)[self._columns[name][group]])

    def _fetch_chunks(self, places: Sequence[tuple[int, int]]) -> Iterator[Codes]:
        """As ``_verified_chunks``, from the backend."""
        if self._units is not None:
            yield from self._checked_chunks(
                places, self._units.whole_groups(places, compared=False)
            )
            return
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
        """Chunks, compared with their digests."""
        for (block, group), codes in zip(places, chunks, strict=True):
            for spec in self._specs:
                self._check(spec.name, block, group, codes[spec.name])
            yield codes

    def _load(self, chunks: list[int]) -> list[Codes]:
        places = [divmod(chunk, self.manifest.num_groups) for chunk in chunks]
        threads = self.threads
        if threads == 1 or len(places) < 2 * threads:
            return list(self.read_chunks(places))
        # Reading, decompressing and hashing let other threads run.
        size = -(-len(places) // threads)
        parts = [places[start : start + size] for start in range(0, len(places), size)]
        with ThreadPoolExecutor(threads) as pool:
            return [codes for part in pool.map(self._list_of, parts) for codes in part]

    def _list_of(self, places: list[tuple[int, int]]) -> list[Codes]:
        return list(self.read_chunks(places))

    def check_block(self, block: int) -> list[StoreError]:
        """What ``Store.check_block`` tells; nothing is taken from the caches."""
        try:
            self._require_committed(block)
            with self._fetched(block):
                return self._check_all(block)
        except IncompleteError as error:
            return [error]
        except StoreError as error:
            return [error, *self._damaged_chunks(block)]

    def _check_all(self, block: int) -> list[StoreError]:
        """As ``check_block``, of a block that has been fetched."""
        problems: list[StoreError] = []
        try:
            for _ in self.images_of([block]):
                pass
            priors = self.prior_codes(block) if self.manifest.prior_size else None
        except StoreError as error:
            return [error, *self._damaged_chunks(block)]
        for start in range(0, self.manifest.num_groups, _GROUPS_CHECKED):
            stop = min(start + _GROUPS_CHECKED, self.manifest.num_groups)
            places = [(block, group) for group in range(start, stop)]
            problems += self._wrong_chunks(places, priors)
        return problems

    def _wrong_chunks(
        self, places: list[tuple[int, int]], priors: Codes | None
    ) -> list[StoreError]:
        """What is wrong with each of some chunks: read together, or one by one where any is."""
        try:
            for _ in self.read_chunks(places, priors, units=True):
                pass
        except StoreError as error:
            if len(places) == 1:
                return [error]
            return [problem for place in places for problem in self._wrong_chunks([place], priors)]
        return []

    def _damaged_chunks(self, block: int) -> list[StoreError]:
        """What is wrong with the labels of a block whose images cannot be told."""
        problems: list[StoreError] = []
        for group in range(self.manifest.num_groups):
            try:
                for _ in self._verified_chunks([(block, group)], units=True):
                    pass
            except StoreError as error:
                problems.append(error)
        return problems

    def _require_labels(
        self, codes: Codes, block: int, group: int | None, priors: Codes | None = None
    ) -> None:
        """CorruptError unless codes of a block's images, which match their digests, are labels.

        ``priors`` are the codes of their lists, where these are at hand."""
        rows = self.manifest.block_slice(block)
        (unreadable,) = self._unreadable_of([block])
        if self.manifest.prior_size and self.manifest.encoding == "codes":
            if priors is None:
                every, read = self.prior_lists.arrays()
                if not read[block]:
                    every = self.prior_lists.read(np.array([block]))
                priors = {name: values[rows] for name, values in every.items()}
            lists = priors["images/prior_classes"]
        else:
            lists = np.empty((rows.stop - rows.start, 0), np.uint16)
        problem = label_problem(codes, self._specs, lists, unreadable, self.manifest)
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

    def _check(self, name: str, block: int, group: int, codes: npt.NDArray[Any]) -> None:
        digest = array_digest(self.manifest.id, name, block, group, codes)
        if digest != self._commit(block)[self._columns[name][group]]:
            raise self.corrupt(name, block, group)

    def _require_committed(self, block: int) -> None:
        if not self._commit(block)[0]:
            rows = self.manifest.block_slice(block)
            missing = len(self.missing_blocks())
            raise IncompleteError(
                f"{self.path}: block {block} (images {rows.start} to {rows.stop - 1}) has no "
                f"labels yet, {missing} of {self.manifest.num_blocks} blocks are missing: run the "
                "command that made the store again, it goes on where it stopped.",
                block=block,
                images=self._images_of(block),
            )

    def corrupt(self, name: str, block: int, group: int | None) -> CorruptError:
        """The error of what is not as it was committed."""
        return CorruptError(
            f"{self.path}/{name}: {self._place(block, group)} is not what was committed: its "
            "files were changed, damaged or exchanged; make this block again (labelstore repair) "
            "or restore it from a copy.",
            array=name,
            block=block,
            images=self._images_of(block),
        )

    def _images_of(self, block: int) -> tuple[int, int]:
        """Indices of a block's first and last image."""
        rows = self.manifest.block_slice(block)
        return rows.start, rows.stop - 1

    def _place(self, block: int, group: int | None) -> str:
        rows = self.manifest.block_slice(block)
        views = ""
        if group is not None:
            columns = self.manifest.group_slice(group)
            views = f", views {columns.start} to {columns.stop - 1}"
        return f"block {block} (images {rows.start} to {rows.stop - 1}{views})"
