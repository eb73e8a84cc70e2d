"""The images of a store by number and by key, and their ground truth; verified when first read."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from labelstore.errors import CorruptError, NotFoundError
from labelstore.format.manifest import fingerprint
from labelstore.format.validity import table_problem
from labelstore.views.philox import hash_keys

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest
    from labelstore.store.backends.protocol import Backend

__all__ = ["ImageTable"]


class ImageTable:
    """Keys and ground truth of a store's images, which never change once they are written.

    What reads them raises CorruptError where they are not those of the manifest.
    """

    def __init__(self, backend: Backend, manifest: Manifest, path: Path | str) -> None:
        """Of a store that is open; ``path`` is for messages. Nothing is read yet."""
        self.path = path
        self._backend = backend
        self._manifest = manifest

    @functools.cached_property
    def _table(self) -> tuple[tuple[str, ...], npt.NDArray[np.int32]]:
        keys, targets = self._backend.read_keys(), self._backend.read_targets()
        digest, expected = fingerprint(keys, targets), self._manifest.fingerprint
        if digest != expected:
            raise CorruptError(
                f"{self.path}/images: the table of keys and ground truth has digest {digest}, "
                f"expected {expected}: it was changed or damaged; restore it."
            )
        problem = table_problem(keys, targets, self._manifest.num_classes)
        if problem is not None:
            raise CorruptError(
                f"{self.path}/images: {problem}: what wrote this table was at fault; make the "
                "store again."
            )
        return keys, targets

    @property
    def keys(self) -> tuple[str, ...]:
        """The images' keys, in order."""
        return self._table[0]

    @property
    def targets(self) -> npt.NDArray[np.int32]:
        """(num_images,) int32 ground-truth class ids in the teacher's classes, -1 unknown."""
        return self._table[1]

    @functools.cached_property
    def key_hashes(self) -> npt.NDArray[np.uint64]:
        """(num_images,) uint64: what names each image in the view law."""
        return hash_keys(self.keys)

    @functools.cached_property
    def _sorted_hashes(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        order = np.argsort(self.key_hashes, kind="stable")
        return self.key_hashes[order], order

    def index_of(self, keys: Sequence[str]) -> npt.NDArray[np.int64]:
        """(n,) int64 positions of images by key.

        Raises:
            NotFoundError: names a key that is not there.
        """
        ordered, order = self._sorted_hashes
        hashes = hash_keys(keys)
        places = np.searchsorted(ordered, hashes)
        out = np.empty(len(keys), dtype=np.int64)
        for row, (key, place) in enumerate(zip(keys, places, strict=True)):
            # Two keys of one hash stand side by side; the string decides.
            while place < len(order) and ordered[place] == hashes[row]:
                if self.keys[order[place]] == key:
                    out[row] = order[place]
                    break
                place += 1
            else:
                raise NotFoundError(
                    f"{self.path} has no image with key {key!r} (one of its keys is "
                    f"{self.keys[0]!r}): keys are paths relative to the source folder."
                )
        return out
