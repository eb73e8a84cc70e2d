"""The reader: where a manifest and a backend meet. Every label read has been verified."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import IncompleteError, MismatchError, UsageError
from labelstore.format.encoding import decode_confidence, decode_prior
from labelstore.format.manifest import EXPLICIT, Manifest
from labelstore.storage.location import place_of
from labelstore.store.backends.registry import backend_of
from labelstore.store.chunks.image_table import ImageTable
from labelstore.store.chunks.label_decoder import LabelDecoder
from labelstore.store.chunks.measured_images import MeasuredImages
from labelstore.store.chunks.reader import BlockReader
from labelstore.store.indexing import common_shape, in_range, one_place, positions_of
from labelstore.store.slabs.slab_cache import SlabCache
from labelstore.views.law import ViewLaw, Views

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.errors import StoreError
    from labelstore.format.blocks import BlockCodes
    from labelstore.labels.top_k import TopK
    from labelstore.store.slabs.slab import Slab

    Codes = dict[str, npt.NDArray[Any]]

__all__ = ["Store", "open", "opened"]

CACHE_BYTES = 256 * 2**20
"""How many bytes of verified codes a store keeps by default."""


def open(
    path: str | os.PathLike[str], *, cache_bytes: int = CACHE_BYTES, slab_bytes: int = 0
) -> Store:
    """Open a store for reading.

    Args:
        path: the store's folder, or the URL of a store: ``s3://``, ``gs://``, ``https://``,
            ``hf://datasets/OWNER/REPO/PATH`` (with the extra ``remote``) or ``file://``.
        cache_bytes: how many bytes of decoded codes this process may keep, at most. The lists of
            likely classes that it has read are kept besides: ``3 m + 1`` bytes for an image's list
            of m classes, in memory that all processes share where there are slabs.
        slab_bytes: how many bytes of slabs the machine may hold for this store, at most; 0 for
            none (``labelstore.store.slabs.slab_cache``). A ``ViewSampler`` sets it.

    Raises:
        NotFoundError: nothing is there, or access is denied. UsageError: a URL of another kind.
        MissingPackageError: the extra, or pyarrow for Parquet, is not installed.
        StoreError: a server does not answer.
        FormatError: it is no store of a known version. CorruptError: its manifest or an array's
            description is damaged.
    """
    return Store(path, cache_bytes=cache_bytes, slab_bytes=slab_bytes)


def opened(store: Store | str | os.PathLike[str]) -> Store:
    """A store, or the one at a path or URL, which is opened.

    Raises:
        Those of ``open``.
    """
    return open(store) if isinstance(store, (str, os.PathLike)) else store


class Store:
    """A store of soft labels, open for reading. It may be pickled and used after a fork.

    A store that is still being made can be opened: what is committed can be read, and a read of
    anything else is an IncompleteError.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        cache_bytes: int = CACHE_BYTES,
        slab_bytes: int = 0,
    ) -> None:
        self.path: Path | str = place_of(path)
        """Where it lies; a URL is a str."""
        self.cache_bytes = cache_bytes
        # A program may change its working directory while the store is open.
        self._place = self.path if isinstance(self.path, str) else self.path.absolute()
        self._backend = backend_of(self._place)
        self._document = self._backend.read_manifest()
        self.manifest = Manifest.from_json(self._document, str(self.path))
        self._backend.open_arrays(self.manifest)
        self._reader = BlockReader(self._backend, self.manifest, self.path, cache_bytes)
        self._table = ImageTable(self._backend, self.manifest, self.path)
        self._measured = MeasuredImages(self._reader, self.manifest)
        self._decoder = LabelDecoder(self.manifest, self._reader.prior_lists, self._table)
        self.slabs = SlabCache(self._reader, self._decoder, slab_bytes)
        """The groups of views that are in memory, and read ahead."""

    def __getstate__(self) -> dict[str, Any]:
        return {
            "path": self._place,
            "cache_bytes": self.cache_bytes,
            "slab_bytes": self.slabs.slab_bytes,
            "id": self.manifest.id,
            "commits": None if self.missing_blocks() else self._reader.commits_digest(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        Store.__init__(
            self, state["path"], cache_bytes=state["cache_bytes"], slab_bytes=state["slab_bytes"]
        )
        self._require_id(self.manifest, state["id"])
        if state["commits"] not in (None, self._reader.commits_digest()):
            raise MismatchError(
                f"{self.path} was replaced by a store of other labels with the same settings "
                "while it was in use: open it again."
            )

    def _require_id(self, manifest: Manifest, expected: str) -> None:
        if manifest.id != expected:
            raise MismatchError(
                f"{self.path} was replaced by another store (id {manifest.id}, "
                f"expected {expected}) while it was in use: open it again."
            )

    def __repr__(self) -> str:
        m = self.manifest
        return (
            f"Store({str(self.path)!r}: {m.num_images} images x {m.num_views} views, "
            f"top {m.k} of {m.num_classes} classes)"
        )

    @property
    def members(self) -> tuple[Store, ...]:
        """The stores that are read: this one (``labelstore.store.label_reader``)."""
        return (self,)

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """(1,) float64: its weight in its own labels, 1."""
        return np.ones(1)

    @property
    def id(self) -> str:
        """The manifest's: of stores with other labels another one."""
        return self.manifest.id

    @property
    def num_images(self) -> int:
        """How many images."""
        return self.manifest.num_images

    @property
    def num_views(self) -> int:
        """How many views of each image."""
        return self.manifest.num_views

    @property
    def num_classes(self) -> int:
        """How many classes the teacher knows."""
        return self.manifest.num_classes

    @property
    def k(self) -> int:
        """How many classes of each label are stored."""
        return self.manifest.k

    @property
    def law(self) -> ViewLaw | str | None:
        """The view law; ``"explicit"`` for stored boxes; None where views cannot be replayed."""
        return self.manifest.law

    @functools.cached_property
    def _replayed(self) -> ViewLaw:
        """The law over the store's images."""
        if not isinstance(self.law, ViewLaw):
            raise MismatchError(f"{self.path} has no view law.")
        return self.law if self.law.mixing is None else self.law.among(self.key_hashes)

    @property
    def reader(self) -> BlockReader:
        """The blocks as they were committed, for operations on whole stores."""
        return self._reader

    # The image table

    @property
    def keys(self) -> tuple[str, ...]:
        """The images' keys, in order."""
        return self._table.keys

    @property
    def targets(self) -> npt.NDArray[np.int32]:
        """(num_images,) int32 ground-truth class ids in the teacher's classes, -1 unknown."""
        return self._table.targets

    @property
    def key_hashes(self) -> npt.NDArray[np.uint64]:
        """(num_images,) uint64: what names each image in the view law."""
        return self._table.key_hashes

    def index_of(self, keys: str | Sequence[str]) -> npt.NDArray[np.int64]:
        """(n,) int64 positions of images by key, of one key () int64.

        Raises:
            NotFoundError: names a key that is not there.
        """
        if isinstance(keys, str):
            return self._table.index_of([keys]).reshape(())
        return self._table.index_of(keys)

    def positions(self, images: npt.ArrayLike | Sequence[str]) -> npt.NDArray[np.int64]:
        """(...) int64 positions of images (...) given by position or by key.

        Raises:
            NotFoundError: out of range, or no such key. UsageError: neither numbers nor keys.
        """
        return positions_of(images, self.index_of, self.num_images, str(self.path))

    def member_rows(self, number: int) -> npt.NDArray[np.int64]:
        """(num_images,) int64: where member ``number`` (0) has each image: at its own place."""
        return np.arange(self.num_images)

    def missing_blocks(self) -> list[int]:
        """Blocks that are not committed (as of when the store was opened or refreshed)."""
        return self._reader.missing_blocks()

    @property
    def complete(self) -> bool:
        """Whether every block is committed."""
        return not self.missing_blocks()

    def require_complete(self) -> None:
        """Raise IncompleteError unless every block is committed."""
        missing = len(self.missing_blocks())
        if missing:
            raise IncompleteError(
                f"{self.path} lacks {missing} of {self.manifest.num_blocks} blocks: run the "
                "command that made it again to finish it first."
            )

    def refresh(self) -> None:
        """See what a writer has committed since the store was opened.

        Raises:
            MismatchError: another store is there now. NotFoundError, FormatError, CorruptError,
            StoreError: as ``open``.
        """
        self.slabs.close()
        document = self._backend.read_manifest()
        if document != self._document:
            # Only then: looking at all of it takes milliseconds.
            self._require_id(Manifest.from_json(document, str(self.path)), self.manifest.id)
        self._reader.refresh()
        self._measured.forget()

    def check_block(self, block: int) -> list[StoreError]:
        """Read everything of a block and check it; what is wrong, [] when all is right.

        Besides the digests, values must be those of labels (classes in range and different,
        probabilities falling, sum at most 1), which only a producer's fault can break.
        """
        return self._reader.check_block(block)

    def block_codes(self, block: int, num_views: int | None = None) -> tuple[Codes, Codes, Codes]:
        """A block's codes as they are stored, verified, by array name.

        Args:
            block: its number, 0..num_blocks-1. num_views: its first views alone; all when None.

        Returns:
            those with one entry an image, those of prior lists, those with one entry a view.

        Raises:
            IncompleteError: it is not committed. CorruptError: it is not as it was committed.
        """
        return self._reader.block_codes(block, num_views or self.num_views)

    def stored_block(self, block: int, num_views: int | None = None) -> BlockCodes:
        """As ``block_codes``, with the objects on disk that the codes were decoded from, of which
        another store may have parts as they are: to compress them again takes a hundred times as
        long as to read them."""
        return self._reader.stored_block(block, num_views or self.num_views)

    def labelled(self) -> npt.NDArray[np.bool_]:
        """(num_images,) bool: whether the image's labels are committed and it was readable."""
        return self._measured.labelled()

    def unreadable(self) -> list[str]:
        """Keys of images that could not be decoded when their block was made."""
        return [self.keys[row] for row in np.flatnonzero(self.unreadable_rows())]

    def unreadable_rows(self) -> npt.NDArray[np.bool_]:
        """(num_images,) bool: whether the image could not be decoded when its block was made."""
        return self._measured.unreadable()

    def sizes(self, images: npt.ArrayLike) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """(...) int32 widths and heights in pixels of images (...) by position; -1: unknown."""
        rows = in_range(images, self.num_images, "image", str(self.path))
        return self._measured.sizes(rows)

    def image_digests(self, images: npt.ArrayLike) -> npt.NDArray[np.uint64]:
        """(...) uint64 xxh3_64 of the encoded files of images (...) by position; 0: unknown."""
        rows = in_range(images, self.num_images, "image", str(self.path))
        return self._measured.digests(rows)

    def bytes_by_part(self) -> dict[str, int]:
        """Bytes on disk of each array, with ``manifest`` for what is left."""
        return self._backend.bytes_by_part()

    # Labels

    def views(self, images: npt.ArrayLike | Sequence[str], views: npt.ArrayLike) -> Views:
        """Boxes, flips, stages' parameters and partners of views; the arguments broadcast together.

        Raises:
            MismatchError: the store's producer did not say which views it labelled.
        """
        rows = self.positions(images)
        columns = in_range(views, self.num_views, "view", str(self.path))
        shape = common_shape(rows, columns)
        if isinstance(self.law, ViewLaw):
            width, height = self.sizes(rows)
            return self._replayed(self.key_hashes[rows], columns, width, height)
        if self.law == EXPLICIT:
            rows = np.broadcast_to(rows, shape).reshape(-1)
            columns = np.broadcast_to(columns, shape).reshape(-1)
            codes = self.slabs.gather(rows, columns)
            flip = codes["views/flip"].reshape(shape).astype(bool)
            return Views(box=codes["views/box"].reshape((*shape, 4)), flip=flip)
        raise MismatchError(
            f"{self.path} does not say which crops its labels belong to: make it with a view law "
            "or with boxes and flips."
        )

    def read(self, images: npt.ArrayLike | Sequence[str], views: npt.ArrayLike) -> TopK:
        """Stored labels of views.

        Args:
            images: positions or keys; views: view numbers; the two broadcast together, to (...).

        Returns:
            TopK of shape (..., k).

        Raises:
            NotFoundError: no such image or view, or the image was unreadable when the store was
                made. IncompleteError: its block is not committed. CorruptError: what is on disk is
                not what was committed.
        """
        place = one_place(images, self.num_images, views, self.num_views)
        label = None if place is None else self._one_label(*place)
        if label is not None:
            return label
        rows = self.positions(images)
        columns = in_range(views, self.num_views, "view", str(self.path))
        shape = common_shape(rows, columns)
        rows = np.broadcast_to(rows, shape).reshape(-1)
        columns = np.broadcast_to(columns, shape).reshape(-1)
        return self._decoder.labels(rows, self.slabs.gather(rows, columns), shape)

    def _one_label(self, image: int, view: int, shape: tuple[int, ...]) -> TopK | None:
        """A label whose chunk is in memory, verified; None for all that ``read`` must look at."""
        label = self.slabs.label(image, view)
        return label[(None,) * len(shape)] if shape and label is not None else label

    def iter_labels(
        self, block: int, groups: Sequence[int], images: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], TopK]]:
        """Labels of some groups of views of a block's labelled images, a few images at a time.

        For going through a whole store: chunks are verified, and nothing is kept of them.

        Args:
            block: its number; groups: numbers of groups, rising; images: how many at a time.

        Yields:
            (n,) int64 positions, rising, and TopK of shape (n, views of the groups, k).

        Raises:
            IncompleteError, CorruptError: as ``read``.
        """
        priors = self._reader.prior_codes(block) if self.manifest.prior_size else None
        places = [(block, group) for group in groups]
        chunks = list(self._reader.read_chunks(places, priors))
        whole = {name: np.concatenate([codes[name] for codes in chunks], 1) for name in chunks[0]}
        run = self.manifest.block_slice(block)
        rows = np.flatnonzero(self.labelled()[run])
        for start in range(0, len(rows), images):
            part = rows[start : start + images]
            codes = {name: array[part] for name, array in whole.items()}
            shape = next(iter(codes.values())).shape[:2]
            flat = {name: array.reshape(-1, *array.shape[2:]) for name, array in codes.items()}
            positions = run.start + part
            owners = np.repeat(positions, shape[1])
            lists = None
            if priors is not None:
                lists = decode_prior({name: values[part] for name, values in priors.items()})
            yield positions, self._decoder.labels(owners, flat, shape, lists)

    def slab(self, group: int) -> Slab:
        """Bring a group of views of all images into memory, once for all processes of the machine.

        ``read`` then takes the group's labels from there, until ``Slab.close``; other processes
        that read this store with ``slab_bytes`` do likewise. An epoch's slabs are made by
        ``ViewSampler``, ahead of it.

        Raises:
            NotFoundError: no such group. IncompleteError, CorruptError: as ``read``. OSError,
            StoreError: there is no room for it.
        """
        (number,) = in_range([group], self.manifest.num_groups, "group", str(self.path))
        return self.slabs.get(int(number))

    def confidence(self, images: slice | None = None) -> npt.NDArray[np.float32]:
        """(n, num_views) float32: the largest probability of every view; NaN without labels.

        Reads the one array that it needs. ``images`` is a run of positions, all when None: for
        large stores go block by block (``iter_confidence``).

        Raises:
            UsageError: the slice has a step.
        """
        start, stop, step = (images or slice(None)).indices(self.num_images)
        if step != 1:
            raise UsageError(
                f"images is {images}, expected a run without a step: index what is returned."
            )
        out = np.full((max(stop - start, 0), self.num_views), np.nan, dtype=np.float32)
        size = self.manifest.block_images
        blocks = range(start // size, -(-stop // size) if stop > start else 0)
        for rows, plane in self._confidence_blocks(blocks):
            low, high = max(rows.start, start), min(rows.stop, stop)
            out[low - start : high - start] = plane[low - rows.start : high - rows.start]
        return out

    def iter_confidence(
        self, blocks: Sequence[int] | None = None
    ) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
        """Runs of images and their confidence planes, over some blocks; all committed when None."""
        return self._confidence_blocks(
            self._reader.committed_blocks() if blocks is None else blocks
        )

    def member_confidence(
        self, number: int
    ) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]]:
        """As ``labelstore.store.label_reader`` says; member 0 is the store itself."""
        return ((self.targets[rows], plane) for rows, plane in self.iter_confidence())

    def _confidence_blocks(
        self, blocks: Sequence[int]
    ) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
        for block, codes in zip(blocks, self._reader.top_probs_of(blocks), strict=True):
            rows, plane = self.manifest.block_slice(block), decode_confidence(codes, self.manifest)
            plane[~self.labelled()[rows]] = np.nan
            yield rows, plane
