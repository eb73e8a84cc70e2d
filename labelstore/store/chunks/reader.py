"""Labels read chunk by chunk or at random, and kept: all of them verified as they are read.

A chunk is one block's group of views: what lies together on disk. Where labels lie in units, those
that are read at random are read unit by unit (``random_units``).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import IncompleteError, StoreError
from labelstore.storage.parallel.threads import cores
from labelstore.store.backends.npy import MappedBackend
from labelstore.store.chunks.disk_cache import ChunkFiles, KeptChunks
from labelstore.store.chunks.memory_cache import ChunkCache, T, flat_take
from labelstore.store.chunks.random_units import RandomUnits
from labelstore.store.chunks.verified_blocks import VerifiedBlocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest
    from labelstore.store.backends.protocol import Backend
    from labelstore.store.chunks.memory_cache import Decode

    Codes = dict[str, npt.NDArray[Any]]

__all__ = ["BlockReader"]

_RUN_BYTES = 2**21
"""Bytes of codes of blocks side by side that are read together, about at most: they stay near the
processor until they are compared and checked."""

_GROUPS_CHECKED = 64
"""Groups of views of a block that are read together where a block is checked."""


class BlockReader(VerifiedBlocks):
    """Reads a store's labels, whole blocks among them; keeps chunks, or units, within a bound."""

    def __init__(
        self, backend: Backend, manifest: Manifest, path: Path | str, cache_bytes: int
    ) -> None:
        """``path`` is for messages; ``cache_bytes`` of codes are kept, but at least one chunk."""
        super().__init__(backend, manifest, path)
        num_chunks = manifest.num_blocks * manifest.num_groups
        chunk_shape = (
            min(manifest.block_images, manifest.num_images),
            min(manifest.group_views, manifest.num_views),
        )
        self._pool = ChunkCache(self._specs, chunk_shape, num_chunks, cache_bytes)
        # A materialized copy lies in memory as it is: its chunks are compared with their digests
        # when they are met first, and then read where they are.
        self._mapped: Codes = backend.mapped if isinstance(backend, MappedBackend) else {}
        self._checked = np.zeros(num_chunks if self._mapped else 0, dtype=bool)
        files = ChunkFiles.of_environment() if isinstance(path, str) else None
        self._kept = KeptChunks(files, manifest, self._digest) if files else None
        units = backend.units
        self._units = None if units is None else RandomUnits(units, self, cache_bytes)

    @property
    def in_memory(self) -> bool:
        """Whether the labels lie in mapped files as they are, so that slabs would be of no use."""
        return bool(self._mapped)

    @property
    def threads(self) -> int:
        """How many threads read and decompress chunks at a time."""
        return 1 if self._alone else cores()

    @property
    def _alone(self) -> bool:
        """Whether one thread must read, chunk by chunk."""
        # Parquet's open files are shared and must be used by one thread at a time; a remote backend
        # has threads of its own.
        return self.manifest.encoding != "codes" or isinstance(self.path, str)

    @property
    def cached_bytes(self) -> int:
        """Bytes of the chunks, and units, that are kept."""
        return self._pool.used_bytes + (0 if self._units is None else self._units.used_bytes)

    def refresh(self) -> None:
        """Look again at what is committed, and at all that is kept of it."""
        super().refresh()
        self._pool.clear()
        if self._units is not None:
            self._units.clear()
        self._checked[:] = False

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

    def decoded(self, image: int, view: int, decode: Decode[T]) -> T | None:
        """What ``decode`` makes of one view's codes; None where its chunk has to be read first."""
        manifest = self.manifest
        if self._units is not None and self._kept is None:
            return self._units.decoded(image, view, decode)
        block, row = divmod(image, manifest.block_images)
        group, column = divmod(view, manifest.group_views)
        chunk = block * manifest.num_groups + group
        if not self._mapped:
            return self._pool.decoded(chunk, row, column, decode)
        if isinstance(self._backend, MappedBackend) and self._backend.touched():
            self._checked[:] = False
        if not self._checked[chunk]:
            return None
        return decode(self._mapped, (image, view))

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
        yield from self._labels_among(places, chunks, priors)

    def read_runs(self, blocks: range, group: int) -> Iterator[tuple[int, Codes]]:
        """All codes of a group of views of some blocks, in runs of blocks; not kept in memory.

        Returns:
            the first block of each run, and the codes (images of the run, views, ...) by array
            name.
        """
        if self._alone or self._units is not None or not blocks:
            chunks = self.read_chunks([(block, group) for block in blocks])
            yield from zip(blocks, chunks, strict=True)
            return
        step = max(_RUN_BYTES // self._pool.chunk_bytes, 1)
        for first in range(blocks.start, blocks.stop, step):
            yield first, self._read_run(range(first, min(first + step, blocks.stop)), group)

    def _verified_chunks(
        self, places: Sequence[tuple[int, int]], *, units: bool = False
    ) -> Iterator[Codes]:
        """As ``read_chunks``, compared with digests alone."""
        if units and self._units is not None:
            return self._checked_chunks(places, self._units.whole_groups(places))
        if self._kept is None:
            return self._fetch_chunks(places)
        return self._kept.read(places, self._fetch_chunks)

    def _fetch_chunks(self, places: Sequence[tuple[int, int]]) -> Iterator[Codes]:
        """As ``VerifiedBlocks`` says; where labels lie in units, many blocks' at a time."""
        if self._units is None:
            return super()._fetch_chunks(places)
        return self._checked_chunks(places, self._units.whole_groups(places, compared=False))

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
