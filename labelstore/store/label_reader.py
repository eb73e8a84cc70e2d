"""What reads labels, be it a store or an ensemble of several: the type that training asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from labelstore.format.manifest import Manifest
    from labelstore.labels.ensemble import EnsembleTopK
    from labelstore.labels.top_k import TopK
    from labelstore.store.store import Store
    from labelstore.views.law import ViewLaw, Views

__all__ = ["LabelReader"]


class LabelReader(Protocol):
    """Labels of the views of images, from one teacher or several.

    ``Store`` and ``Ensemble`` are such, and one needs no telling from the other: a store is read by
    its one member, itself.
    """

    @property
    def members(self) -> tuple[Store, ...]:
        """The stores that are read, one for each teacher; a store's is itself."""

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """(members,) float64, non-negative, sum 1."""

    @property
    def id(self) -> str:
        """What decides the labels: the members' identities, and the weights of several."""

    @property
    def path(self) -> Path | str:
        """Where the (first) member lies; a URL is a str."""

    @property
    def manifest(self) -> Manifest:
        """What the (first) member's says, of the images and views that are read."""

    @property
    def num_images(self) -> int:
        """How many images."""

    @property
    def num_views(self) -> int:
        """How many views of each image."""

    @property
    def num_classes(self) -> int:
        """How many classes every teacher knows."""

    @property
    def law(self) -> ViewLaw | str | None:
        """The view law; ``"explicit"`` for stored boxes; None where views cannot be replayed."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The images' keys, in order."""

    @property
    def key_hashes(self) -> npt.NDArray[np.uint64]:
        """(num_images,) uint64: what names each image in the view law and in schedules."""

    @property
    def targets(self) -> npt.NDArray[np.int32]:
        """(num_images,) int32 ground-truth class ids, -1 where unknown."""

    @property
    def complete(self) -> bool:
        """Whether all blocks are committed."""

    def missing_blocks(self) -> list[int]:
        """Blocks (``manifest.block_slice``) that are not committed."""

    def labelled(self) -> npt.NDArray[np.bool_]:
        """(num_images,) bool: whether every member holds labels of the image."""

    def member_rows(self, number: int) -> npt.NDArray[np.int64]:
        """(num_images,) int64: where member ``number`` has each image."""

    def member_confidence(
        self, number: int
    ) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]]:
        """Member ``number``'s largest probabilities of the images and views that are read.

        Block by block of that member, the images' ground truth (n,), as ``targets`` has it, and
        (n, num_views) float32: of images that every member has labels of, or NaN in their place, in
        the member's order. From the one array of them.

        Raises:
            StoreError: a label cannot be read.
        """

    def index_of(self, keys: str | Sequence[str]) -> npt.NDArray[np.int64]:
        """(n,) int64 positions of images by key, of one key () int64; NotFoundError otherwise."""

    def positions(self, images: npt.ArrayLike | Sequence[str]) -> npt.NDArray[np.int64]:
        """(...) int64 positions of images (...) given by position or by key.

        Raises:
            NotFoundError: out of range, or no such key. UsageError: neither numbers nor keys.
        """

    def sizes(self, images: npt.ArrayLike) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """(...) int32 widths and heights in pixels of images (...) by position; -1: unknown."""

    def image_digests(self, images: npt.ArrayLike) -> npt.NDArray[np.uint64]:
        """(...) uint64 xxh3_64 of the encoded files of images (...) by position; 0: unknown."""

    def views(self, images: npt.ArrayLike | Sequence[str], views: npt.ArrayLike) -> Views:
        """Boxes, flips, stages' parameters and partners of views; as ``Store.views``."""

    def read(
        self, images: npt.ArrayLike | Sequence[str], views: npt.ArrayLike
    ) -> TopK | EnsembleTopK:
        """Stored labels of views; as ``Store.read``."""
