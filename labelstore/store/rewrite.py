"""What all writing of a store has in common, when its labels come from another store.

A source is refused where it would be overwritten; blocks that an interrupted run has left are
gone on with; what is copied of images is the same; a sample of the new labels is compared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import UsageError
from labelstore.format.arrays import view_arrays
from labelstore.format.blocks import BlockCodes, block_codes, empty_block
from labelstore.labels.distance import Distances
from labelstore.launch import own_cores
from labelstore.storage.location import is_remote, place_of, same_place
from labelstore.storage.parallel.processes import Processes, process_count
from labelstore.store.backends.registry import backend_of
from labelstore.store.indexing import evenly_spaced
from labelstore.store.writer import EncodedBlock, encoded_block

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Generator, Iterable, Sequence
    from concurrent.futures import Future

    import numpy.typing as npt

    from labelstore.format.blocks import BlockData
    from labelstore.format.manifest import Manifest
    from labelstore.store.backends.protocol import Backend
    from labelstore.store.label_reader import LabelReader
    from labelstore.store.selection import Selection
    from labelstore.store.store import Store
    from labelstore.store.writer import StoreWriter

__all__ = [
    "BlockMaker",
    "Copying",
    "RewriteReport",
    "bytes_of",
    "require_same_format",
    "require_source",
    "sample",
    "unlabelled_block",
    "write_blocks",
    "write_selection",
]

WORKERS = 8
"""Blocks that are copied at a time where nothing else is said, at most."""

MEMORY_BYTES = 2**30
"""That blocks which are being copied take, about."""

SAMPLE = 64
"""Images whose labels are compared at the end, and at most as many views of each."""


class RewriteReport:
    """What a run did: a base of frozen dataclasses."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object: tuples as lists, ``Distances`` rounded."""
        return {
            field.name: _plain(getattr(self, field.name))
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
        }


def _plain(value: Any) -> Any:
    if isinstance(value, Distances):
        return value.to_json()
    return list(value) if isinstance(value, tuple) else value


def require_source(store: Store, path: str | os.PathLike[str], refusal: str) -> None:
    """Refuse a source that is not finished, or that lies where the new store is to lie.

    Args:
        store: what is read.
        path: where the new store goes.
        refusal: what the error says of a path that is the source's.

    Raises:
        IncompleteError: blocks are missing. UsageError: it is the same place.
    """
    store.require_complete()
    if same_place(path, store.path):
        raise UsageError(f"{path} is {refusal}.")


def require_same_format(store: Store, path: str | os.PathLike[str], noun: str) -> None:
    """Refuse a path of another back end than a store whose codes are copied as they are.

    Args:
        store: what is read. path: where the new store goes. noun: what that is, for the message.

    Raises:
        UsageError: it is of another format.
    """
    if backend_of(path).encoding != store.manifest.encoding:
        raise UsageError(
            f"{path} is of another format than {store.path}, and {noun} is of the same: give both "
            "names the same ending, or change the format with labelstore recode."
        )


def write_blocks(
    writer: StoreWriter,
    make: Callable[[slice], BlockData | BlockCodes | EncodedBlock],
    tell: Callable[[int, int], None] | None = None,
    workers: int = 1,
) -> int:
    """Write the blocks that are not committed yet, in order.

    With several workers so many blocks are made, written and committed at a time. When one fails no
    other is begun, those that were begun are finished, and the error is that of the first of them.

    Args:
        writer: of the new store, entered.
        make: makes the block of a run of its images: as data, as codes, or encoded.
        tell: called for each block, those that were there included, with its images and views.
        workers: blocks at a time; above 1 ``make`` is called by several threads at once.

    Returns:
        how many blocks were written.
    """
    manifest, pending = writer.manifest, set(writer.pending_blocks())

    def write(block: int) -> None:
        if block in pending:
            content = make(manifest.block_slice(block))
            if isinstance(content, EncodedBlock):
                writer.write_encoded(block, content)
            elif isinstance(content, BlockCodes):
                writer.write_codes(block, content)
            else:
                writer.write_block(block, content)

    for block in _written_blocks(write, range(manifest.num_blocks), workers):
        if tell is not None:
            rows = manifest.block_slice(block)
            tell(rows.stop - rows.start, (rows.stop - rows.start) * manifest.num_views)
    return len(pending)


class BlockMaker:
    """Makes blocks of labels and writes them, where making one is Python's work.

    Made before the writer is entered: several processes are forks of this one, which would have the
    lock of a store that is locked already. They read, check and encode; the writer's own process
    writes and commits, so that the store is the same, whatever their number. ``close`` ends them.

    Args:
        make: makes the block of a run of images.
        path: of the new store. blocks: how many it has.
        workers: processes; None: one a core, up to eight; 1: this one alone.
    """

    def __init__(
        self,
        make: Callable[[slice], BlockData],
        path: str | os.PathLike[str],
        blocks: int,
        workers: int | None,
    ) -> None:
        self._make, self._path = make, place_of(path)
        self._count = process_count(workers, blocks)
        self._backend: Backend | None = None
        self._processes = Processes(self._count, self._encoded) if self._count > 1 else None

    def close(self) -> None:
        """End the processes, if there are any."""
        if self._processes is not None:
            self._processes.close()

    def write(self, writer: StoreWriter, tell: Callable[[int, int], None] | None = None) -> int:
        """Write the blocks that are not committed yet; as ``write_blocks``."""
        processes = self._processes
        if processes is None:
            return write_blocks(writer, self._make, tell)
        return write_blocks(
            writer, lambda rows: processes((writer.manifest, rows)), tell, self._count
        )

    def _encoded(self, request: tuple[Manifest, slice]) -> EncodedBlock:
        """In a fork: the block of a run of images of a store with this manifest, which is there."""
        manifest, rows = request
        block = rows.start // manifest.block_images
        codes = block_codes(self._make(rows), manifest, block)
        if self._backend is None:
            self._backend = backend_of(self._path)
            self._backend.open_for_writing(manifest)
        return encoded_block(self._backend, manifest, block, codes)


def write_selection(
    writer: StoreWriter,
    selection: Selection,
    tell: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> int:
    """Write the blocks of chosen images and views that are not committed yet, as ``write_blocks``.

    Args:
        writer: of the new store, entered. selection: what it is to hold. tell: as ``write_blocks``.
        workers: blocks at a time; when None as many as hide the time that a server takes to answer,
            or as there are cores, and fewer where blocks take much memory.
    """
    copying = Copying.of(writer, selection.stores, workers)
    chosen = dataclasses.replace(selection, kept=copying.workers + 1)

    def codes(rows: slice) -> BlockCodes:
        with copying.reading:
            return chosen.codes(writer.manifest, rows)

    return write_blocks(writer, codes, tell, copying.workers)


@dataclasses.dataclass(frozen=True)
class Copying:
    """How blocks of stores are copied into a new one: several at a time."""

    writer: StoreWriter
    workers: int
    """Blocks at a time."""
    reading: contextlib.AbstractContextManager[Any]
    """Held while a block is read."""

    @classmethod
    def of(
        cls, writer: StoreWriter, stores: Sequence[Store], workers: int | None = None
    ) -> Copying:
        """As many at a time as hide the time that a server takes to answer, or as there are cores,
        and fewer where blocks take much memory.

        Args:
            writer: of the new store, entered. stores: those that are read.
            workers: so many where that is not None.
        """
        # Open files of Parquet are for one thread at a time; of objects each thread has its own.
        alone = any(s.manifest.encoding != "codes" and not is_remote(s.path) for s in stores)
        reading = threading.Lock() if alone else contextlib.nullcontext()
        return cls(writer, workers or _workers(writer, stores), reading)

    def copied(
        self, blocks: Iterable[int], codes: Callable[[int], BlockCodes | None]
    ) -> Generator[int, None, None]:
        """Write and commit blocks; each is given when that is done, in any order.

        Errors are as in ``write_blocks``. Who stops asking waits for blocks that were begun.

        Args:
            blocks: of the new store; the next one is asked for when there is room for it.
            codes: reads a block; None for one that is left as it is. Several threads call it, each
                with ``reading`` held.
        """

        def write(block: int) -> None:
            with self.reading:
                block_codes = codes(block)
            if block_codes is not None:
                self.writer.write_codes(block, block_codes)

        return _written_blocks(write, blocks, self.workers)


def _workers(writer: StoreWriter, stores: Sequence[Store]) -> int:
    manifests = [writer.manifest, *(store.manifest for store in stores)]
    remote = any(is_remote(path) for path in (writer.path, *(store.path for store in stores)))
    most = WORKERS if remote else min(own_cores(None), WORKERS)
    # As it came, decoded, and encoded again.
    block_bytes = 3 * max(
        min(manifest.block_images, manifest.num_images)
        * sum(spec.dtype.itemsize * math.prod(spec.shape[1:]) for spec in view_arrays(manifest))
        for manifest in manifests
    )
    return max(1, min(most, MEMORY_BYTES // max(block_bytes, 1)))


def _written_blocks(
    write: Callable[[int], None], blocks: Iterable[int], workers: int
) -> Generator[int, None, None]:
    """Blocks as they are written; with several workers several at a time, and so in any order."""
    if workers == 1:
        for block in blocks:
            write(block)
            yield block
        return
    # Leaving waits for those that were begun.
    with ThreadPoolExecutor(workers, thread_name_prefix="labelstore-blocks") as pool:
        begun: dict[Future[None], int] = {}
        errors: dict[int, BaseException] = {}
        left = iter(blocks)
        while True:
            if not errors:
                begun |= {
                    pool.submit(write, block): block
                    for block in itertools.islice(left, workers - len(begun))
                }
            if not begun:
                break
            for future in wait(begun, return_when=FIRST_COMPLETED).done:
                block, error = begun.pop(future), future.exception()
                if error is not None:
                    errors[block] = error
                else:
                    yield block
        if errors:
            raise errors[min(errors)]


def unlabelled_block(
    source: LabelReader, manifest: Manifest, rows: slice
) -> tuple[BlockData, npt.NDArray[np.int64]]:
    """The data of a run of images with all that is copied, and with labels still to be filled in.

    Args:
        source: what is read; its images are numbered as the new store's.
        manifest: of the new store.
        rows: the images.

    Returns:
        sizes, digests, which images are readable, and explicit views as in the source, with indices
        and probs 0; and (n,) which of its images have labels, rising.
    """
    images, views = np.arange(rows.start, rows.stop), np.arange(manifest.num_views)
    readable = source.labelled()[rows]
    widths, heights = source.sizes(images)
    data = dataclasses.replace(
        empty_block(manifest, len(images)),
        widths=widths,
        heights=heights,
        digests=source.image_digests(images),
        readable=readable,
    )
    if data.boxes is not None and data.flips is not None:
        crops = source.views(images[readable][:, None], views)
        data.boxes[readable], data.flips[readable] = crops.box, crops.flip
    return data, np.flatnonzero(readable)


def sample(store: Store) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Labelled images all through a store, and views, whose labels are worth comparing.

    Returns:
        (n,) int64 positions and (m,) int64 view numbers, at most ``SAMPLE`` of each, rising; no
        images where none is labelled.
    """
    labelled = np.flatnonzero(store.labelled())
    images = labelled[evenly_spaced(len(labelled), SAMPLE)] if len(labelled) else labelled
    return images, np.arange(min(store.num_views, SAMPLE))


def bytes_of(store: Store) -> int:
    """Bytes of a store's files."""
    return sum(store.bytes_by_part().values())
