"""The lists of likely classes of all images of a store, block by block as they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from labelstore.format.arrays import prior_arrays
from labelstore.format.encoding import decode_prior

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest
    from labelstore.labels.prior import ImagePrior

    Codes = dict[str, npt.NDArray[Any]]
    BoolArray = npt.NDArray[np.bool_]

__all__ = ["PriorBlocks", "PriorLists"]


class PriorBlocks(Protocol):
    """What reads prior lists from a store."""

    manifest: Manifest

    def require_blocks(self, blocks: Sequence[int]) -> None:
        """IncompleteError, CorruptError: a block is not there as it was committed."""

    def prior_codes_of(self, blocks: Sequence[int]) -> Iterator[Codes]:
        """Codes of the prior lists of some blocks' images, in order, verified."""


class PriorLists:
    """Codes of the prior lists of all images; those of a block stay once they were read.

    ``3 m + 1`` bytes for an image's list of m classes.
    """

    def __init__(self, blocks: PriorBlocks) -> None:
        """Nothing is read yet."""
        self._blocks = blocks
        self._manifest = blocks.manifest
        self.use(None)

    def use(self, codes: Codes | None) -> None:
        """Take the prior lists of all images from arrays that were made of ``prior_codes_of``; from
        the store, as they are asked for, when None."""
        # Which blocks' are there, too; replaced as one, since threads read lists.
        self._shared: tuple[Codes, BoolArray] | None = None
        if codes is not None:
            self._shared = codes, np.ones(self._manifest.num_blocks, dtype=bool)
        self.__dict__.pop("_own", None)

    def arrays(self) -> tuple[Codes, BoolArray]:
        """Codes of all images by array name, and (num_blocks,) which blocks' have been read."""
        lists = self._shared or self.__dict__.get("_own")
        if lists is None:
            # Memory is taken as blocks are read.
            specs = prior_arrays(self._manifest)
            codes = {spec.name: np.empty(spec.shape, spec.dtype) for spec in specs}
            empty = codes, np.zeros(self._manifest.num_blocks, dtype=bool)
            # Of two threads that come at once, both use the same.
            lists = self.__dict__.setdefault("_own", empty)
        return lists

    def read(self, blocks: npt.NDArray[np.int64]) -> Codes:
        """Codes of the prior lists of all images; there are those of ``blocks``, at least.

        Raises:
            IncompleteError, CorruptError: a block is not there as it was committed.
        """
        # Before anything is made of their size: these blocks have to be there.
        self._blocks.require_blocks(blocks.tolist())
        codes, is_read = self.arrays()
        missing = blocks[~is_read[blocks]].tolist()
        for block, part in zip(missing, self._blocks.prior_codes_of(missing), strict=True):
            rows = self._manifest.block_slice(block)
            for name, values in part.items():
                codes[name][rows] = values
            is_read[block] = True
        return codes

    def of(self, images: npt.NDArray[np.int64]) -> ImagePrior:
        """The prior lists of images (n,) by number; errors as ``read``."""
        codes = self.read(np.unique(images // self._manifest.block_images))
        return decode_prior({name: values[images] for name, values in codes.items()})

    def holding(self, image: int) -> Codes | None:
        """Codes of the lists of all images, by array name, of which that of ``image`` is there;
        None where it has to be read first."""
        codes, is_read = self.arrays()
        return codes if is_read.item(image // self._manifest.block_images) else None
