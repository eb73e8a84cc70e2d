"""What was measured of each image when its block was made: whether it could be read, its size, its
file's digest."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.format.arrays import LABELLED, UNREADABLE, image_arrays

if TYPE_CHECKING:
    import numpy.typing as npt

    from labelstore.format.manifest import Manifest
    from labelstore.store.chunks.reader import BlockReader

__all__ = ["MeasuredImages"]


class MeasuredImages:
    """The measured arrays of all committed blocks, verified and read when first asked for.

    What reads them raises CorruptError where they are not as they were committed.
    """

    def __init__(self, reader: BlockReader, manifest: Manifest) -> None:
        """Of a store's blocks. Nothing is read yet."""
        self._reader = reader
        self._manifest = manifest

    @functools.cached_property
    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        """By name; of blocks that are not committed the arrays' fill values."""
        specs = image_arrays(self._manifest)
        whole = {spec.name: np.full(spec.shape, spec.fill, spec.dtype) for spec in specs}
        blocks = self._reader.committed_blocks()
        for block, arrays in zip(blocks, self._reader.images_of(blocks), strict=True):
            for name, codes in arrays.items():
                whole[name][self._manifest.block_slice(block)] = codes
        return whole

    def forget(self) -> None:
        """Read them again when they are asked for next: more blocks may be committed."""
        self.__dict__.pop("_arrays", None)

    def labelled(self) -> npt.NDArray[np.bool_]:
        """(num_images,) bool: whether the image's labels are committed and it was readable."""
        return np.asarray(self._arrays["images/status"] == LABELLED)

    def unreadable(self) -> npt.NDArray[np.bool_]:
        """(num_images,) bool: whether the image could not be decoded."""
        return np.asarray(self._arrays["images/status"] == UNREADABLE)

    def sizes(
        self, rows: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Widths and heights (...), int32 pixels, of images by position (...); -1 where unknown."""
        size = self._arrays["images/size"][rows]
        return size[..., 0], size[..., 1]

    def digests(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """(...) uint64: xxh3_64 of the encoded files of images by position; 0 where unknown."""
        return np.asarray(self._arrays["images/digest"][rows])
