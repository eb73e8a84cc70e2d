"""What a store has committed: which blocks, as which digests, and what else is there instead."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from labelstore.errors import CorruptError, IncompleteError
from labelstore.format.arrays import (
    PRIOR_COLUMN,
    chunk_digests,
    group_digests,
    view_arrays,
    view_columns,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest
    from labelstore.store.backends.protocol import Backend

__all__ = ["CommittedBlocks"]

_UNPROVED_IMAGES = 2**24
"""Images that a manifest may claim before commit rows of all blocks are looked for."""


class CommittedBlocks:
    """The commit rows of a store's blocks, and the errors that say what does not match them."""

    def __init__(self, backend: Backend, manifest: Manifest, path: Path | str) -> None:
        """``path`` is for messages."""
        self.manifest = manifest
        self.path = path
        self._backend = backend
        self._specs = view_arrays(manifest)
        self._columns = view_columns(manifest)
        self._known: dict[int, npt.NDArray[np.uint64]] = {}

    def refresh(self) -> None:
        """Look again at what is committed."""
        self.__dict__.pop("_commits", None)
        self._known = {}

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

    @property
    def all_commits(self) -> npt.NDArray[np.uint64]:
        """(blocks, parts) commit rows; zeros where a block is not committed."""
        return self._commits

    def missing_blocks(self) -> list[int]:
        """Blocks that are not committed."""
        return [int(block) for block in np.flatnonzero(self._commits[:, 0] == 0)]

    def committed_blocks(self) -> list[int]:
        """Blocks that are."""
        return [int(block) for block in np.flatnonzero(self._commits[:, 0])]

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

    def _digest(self, name: str, block: int, group: int) -> int:
        """The commit digest of an array's chunk."""
        return int(self._commit(block)[self._columns[name][group]])

    def _are_wrong(
        self, name: str, places: Sequence[tuple[int, int]], chunks: Sequence[npt.NDArray[Any]]
    ) -> npt.NDArray[np.bool_]:
        """(n,) which chunks of an array, by (block, group), are not what was committed."""
        columns = self._columns[name]
        digests = chunk_digests(self.manifest.id, name, places, chunks)
        committed = [self._commit(block)[columns[group]] for block, group in places]
        return np.asarray(digests != np.array(committed, dtype=np.uint64))

    def _check_groups(self, name: str, block: int, codes: npt.NDArray[Any]) -> None:
        """CorruptError unless codes (n, views, ...) of a block, whole groups from the first one
        on, are what was committed."""
        digests = group_digests(self.manifest.id, name, block, codes, self.manifest.group_views)
        columns = self._columns[name][: len(digests)]
        wrong = digests != self._commit(block)[columns.start : columns.stop]
        if wrong.any():
            raise self.corrupt(name, block, int(wrong.argmax()))

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
