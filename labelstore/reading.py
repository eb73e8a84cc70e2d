"""Blocks and chunks as they were committed: all that is read here is compared with its digest.

A chunk is one block's group of views: what lies together on disk.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.backends.base import (
    array_digest,
    image_arrays,
    images_digest,
    prior_arrays,
    view_arrays,
)
from labelstore.encoding import decode_labels, decode_prior
from labelstore.errors import CorruptError, IncompleteError, StoreError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.backends.base import Backend
    from labelstore.manifest import Manifest
    from labelstore.prior import ImagePrior

    Codes = dict[str, npt.NDArray[Any]]

__all__ = ["LABELLED", "NO_LIST", "UNREADABLE", "BlockReader"]

LABELLED, UNREADABLE = 1, 2
"""Values of ``images/status`` in a committed block."""

NO_LIST = np.empty((0, 0), dtype=np.int32)
"""The prior lists of a store without."""

_ROUNDING = 1e-6
"""By how much a sum of float32 probabilities may exceed 1."""


class BlockReader:
    """Reads a store's blocks; keeps prior lists, and chunks within a bound.

    Every method that reads labels raises IncompleteError for a block that is not committed and
    CorruptError for what is not as it was committed.
    """

    def __init__(self, backend: Backend, manifest: Manifest, path: Path, cache_bytes: int) -> None:
        """``path`` is for messages; ``cache_bytes`` of codes are kept, but at least one chunk."""
        self.manifest = manifest
        self.path = path
        self.cache_bytes = cache_bytes
        self.cached_bytes = 0
        self._backend = backend
        self._specs = view_arrays(manifest)
        self._priors: dict[int, ImagePrior] = {}
        self._cache: OrderedDict[tuple[int, int], Codes] = OrderedDict()

    @functools.cached_property
    def _commits(self) -> npt.NDArray[np.uint64]:
        return self._backend.read_commits()

    def missing_blocks(self) -> list[int]:
        """Blocks that are not committed."""
        return [int(block) for block in np.flatnonzero(self._commits[:, 0] == 0)]

    def committed_blocks(self) -> list[int]:
        """Blocks that are."""
        return [int(block) for block in np.flatnonzero(self._commits[:, 0])]

    def refresh(self) -> None:
        """Look again at what is committed."""
        self.__dict__.pop("_commits", None)

    def images(self, block: int) -> Codes:
        """The measured image arrays of a block."""
        self._require_committed(block)
        rows = self.manifest.block_slice(block)
        specs = image_arrays(self.manifest)
        found = {spec.name: self._backend.read(spec.name, rows, None) for spec in specs}
        if images_digest(self.manifest.id, block, found) != self._commits[block, 0]:
            raise self._corrupt("images", block, None)
        return found

    def prior(self, block: int) -> ImagePrior:
        """The prior lists of a block's images; they are kept."""
        if block not in self._priors:
            self._require_committed(block)
            rows = self.manifest.block_slice(block)
            specs = prior_arrays(self.manifest)
            codes = {spec.name: self._backend.read(spec.name, rows, None) for spec in specs}
            found = images_digest(self.manifest.id, block, codes, "prior")
            if found != self._commits[block, -1]:
                raise self._corrupt("images/prior_classes", block, None)
            self._priors[block] = decode_prior(codes)
        return self._priors[block]

    def top_probs(self, block: int) -> npt.NDArray[Any]:
        """(n, V) codes of the largest probabilities of a block, all views; not kept."""
        self._require_committed(block)
        rows = self.manifest.block_slice(block)
        codes = self._backend.read("labels/top_prob", rows, slice(0, self.manifest.num_views))
        for group in range(self.manifest.num_groups):
            self._check("labels/top_prob", block, group, codes[:, self.manifest.group_slice(group)])
        return codes

    def chunk(self, block: int, group: int) -> Codes:
        """All codes of one block and group of views."""
        place = (block, group)
        if place in self._cache:
            self._cache.move_to_end(place)
            return self._cache[place]
        codes = self._read_chunk(block, group)
        self._cache[place] = codes
        self.cached_bytes += sum(array.nbytes for array in codes.values())
        while self.cached_bytes > self.cache_bytes and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self.cached_bytes -= sum(array.nbytes for array in dropped.values())
        return codes

    def check_block(self, block: int) -> list[StoreError]:
        """What ``Store.check_block`` tells; nothing is taken from the caches."""
        found: list[StoreError] = []
        try:
            readable = self.images(block)["images/status"] == LABELLED
            lists = NO_LIST
            if self.manifest.prior_size:
                self._priors.pop(block, None)
                lists = self.prior(block).classes
        except IncompleteError as error:
            return [error]
        except StoreError as error:
            found.append(error)
        for group in range(self.manifest.num_groups):
            try:
                codes = self._read_chunk(block, group)
            except StoreError as error:
                found.append(error)
                continue
            if not found and not self._holds_labels(codes, lists, readable):
                found.append(self._corrupt("labels", block, group))
        return found

    def _read_chunk(self, block: int, group: int) -> Codes:
        self._require_committed(block)
        rows, columns = self.manifest.block_slice(block), self.manifest.group_slice(group)
        codes: Codes = {}
        for spec in self._specs:
            found = self._backend.read(spec.name, rows, columns)
            self._check(spec.name, block, group, found)
            codes[spec.name] = found
        return codes

    def _holds_labels(
        self, codes: Codes, lists: npt.NDArray[np.int32], readable: npt.NDArray[np.bool_]
    ) -> bool:
        """Whether the codes of a chunk decode to labels."""
        names = [name for name in codes if name.startswith("labels/")]
        rows, columns = np.nonzero(np.broadcast_to(readable[:, None], codes[names[0]].shape[:2]))
        parts = {name: codes[name][rows, columns] for name in names}
        try:
            classes, probs = decode_labels(parts, lists, rows, self.manifest)
        except (IndexError, ValueError):
            return False
        ids = np.sort(np.where(probs > 0, classes, -1 - np.arange(self.manifest.k)), axis=-1)
        return bool(
            np.isfinite(probs).all()
            and (probs >= 0).all()
            and (np.diff(probs, axis=-1) <= 0).all()
            and (probs.sum(axis=-1, dtype=np.float64) <= 1 + _ROUNDING).all()
            and (np.diff(ids, axis=-1) > 0).all()
            and ids.max(initial=0) < self.manifest.num_classes
            and classes.min(initial=0) >= 0
        )

    def _check(self, name: str, block: int, group: int, codes: npt.NDArray[Any]) -> None:
        part = next(place for place, spec in enumerate(self._specs) if spec.name == name)
        column = 1 + part * self.manifest.num_groups + group
        found = array_digest(self.manifest.id, name, block, group, codes)
        if found != self._commits[block, column]:
            raise self._corrupt(name, block, group)

    def _require_committed(self, block: int) -> None:
        if not self._commits[block, 0]:
            rows = self.manifest.block_slice(block)
            missing = len(self.missing_blocks())
            raise IncompleteError(
                f"{self.path}: block {block} (images {rows.start} to {rows.stop - 1}) has no "
                f"labels yet, {missing} of {self.manifest.num_blocks} blocks are missing: run the "
                "command that made the store again, it goes on where it stopped."
            )

    def _corrupt(self, name: str, block: int, group: int | None) -> CorruptError:
        rows = self.manifest.block_slice(block)
        views = ""
        if group is not None:
            columns = self.manifest.group_slice(group)
            views = f", views {columns.start} to {columns.stop - 1}"
        return CorruptError(
            f"{self.path}/{name}: block {block} (images {rows.start} to {rows.stop - 1}{views}) is "
            "not what was committed: its files were changed, damaged or exchanged; make this block "
            "again (labelstore repair) or restore it from a copy."
        )
