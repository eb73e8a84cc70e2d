"""Batches of pixels: photos are decoded and cut by threads, ahead of the teacher.

A photo is let go when its last view is cut: memory does not grow with the number of views.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import DecodeError, SourceError
from labelstore.images.pixels import render
from labelstore.images.resampling import can_resize
from labelstore.images.resize_on_device import resize_boxes
from labelstore.producer.crops.photos import LoadedPhoto, NoPartnerError, PhotoLoader
from labelstore.producer.crops.runs import crop_runs
from labelstore.teachers.device_memory import (
    batch_memory,
    is_out_of_memory,
    own_stream,
    place_batch,
    place_photo,
    ready_event,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    import numpy.typing as npt
    import torch

    from labelstore.images.preprocessing import Preprocessing
    from labelstore.images.sources.choose import ImageSource
    from labelstore.producer.background import Pace
    from labelstore.producer.crops.photos import PartnerFile, PhotoFacts
    from labelstore.producer.crops.runs import CropRun
    from labelstore.producer.settings import RunOptions
    from labelstore.views.law import ViewLaw

__all__ = ["CropBatch", "Cutter", "Shape", "shape_of"]

Shape = tuple[tuple[int, int], str]
"""(height, width) and interpolation of a teacher's input."""


class _BatchMemory:
    """The pixels of a batch, to be filled by workers."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        # Asked for once a batch: a part of a tensor takes as long as cutting a tenth of a view.
        self.pixels: npt.NDArray[np.uint8] = tensor.numpy()


@dataclass(frozen=True)
class CropBatch:
    """Views that go through the teachers at once; all of one block."""

    runs: list[tuple[CropRun, PhotoFacts]]
    readable: list[CropRun]
    """The runs that ``pixels`` hold, in order."""
    pixels: dict[Shape, torch.Tensor]
    """(B, H, W, 3) uint8 for each distinct input; empty where no photo could be decoded."""
    ready: Any = None
    """The CUDA event behind the work that makes the pixels; None where they are there."""


def shape_of(preprocessing: Preprocessing) -> Shape:
    """The shape of a teacher's input."""
    return preprocessing.input_size, preprocessing.interpolation


class Cutter:
    """Cuts batches of views out of a source's photos.

    Args:
        source: the images.
        law: of the views.
        shapes: of each teacher's input.
        place: of the teachers.
        batch_size: views in one forward.
        pace: how it keeps step with the teacher.
        options: of the run; with ``resize="workers"`` the threads that decode cut, too.
        first_views: (N,) of each image, the first view to cut; the first of all when None.
    """

    def __init__(
        self,
        source: ImageSource,
        law: ViewLaw,
        shapes: list[Shape],
        place: torch.device,
        batch_size: int,
        pace: Pace,
        options: RunOptions,
        first_views: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self._source = source
        self._first_views = first_views
        self._shapes = shapes
        self._place = place
        self._pace = pace
        self._resize = options.resize
        self._batch_size = batch_size
        self._workers = options.workers
        self._on_error = options.on_error
        # Where Pillow cuts nothing, a photo is taken out of it once.
        as_array = options.resize == "device" or all(can_resize(*shape) for shape in shapes)
        self._photos = PhotoLoader(source, law, as_array=as_array)
        self._num_views = 0

    def batches(
        self, blocks: Iterable[tuple[int, slice, tuple[int, ...]]], num_views: int
    ) -> Generator[CropBatch, None, None]:
        """The batches of blocks, in order.

        Args:
            blocks: block, its images, and the numbers of the teachers that are to label them.
            num_views: of each image.

        Raises:
            DecodeError: a photo cannot be decoded and ``on_error`` is "stop".
            SourceError: one could not be read, whatever ``on_error`` says.
        """
        self._num_views = num_views
        longest = self._pace.run_views[self._resize]
        runs = crop_runs(blocks, num_views, self._batch_size, longest, self._first_views)
        with ThreadPoolExecutor(self._workers, thread_name_prefix="labelstore") as pool:
            try:
                with own_stream(self._place):
                    cut_by = (
                        self._cut_by_workers if self._resize == "workers" else self._cut_on_device
                    )
                    yield from self._assemble(cut_by(runs, pool))
            except (MemoryError, RuntimeError) as error:
                # That of a device, where crops are resized there, is a RuntimeError.
                if not is_out_of_memory(error):
                    raise
                where = "" if isinstance(error, MemoryError) else f" on {self._place}"
                raise SourceError(
                    f"there is no memory{where} to decode and cut photos: use fewer workers or a "
                    "smaller batch size; what was committed is kept.",
                    arguments=("workers", "batch_size"),
                ) from error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def mixed_files(self) -> dict[int, PartnerFile]:
        """As ``PhotoLoader`` has it."""
        return self._photos.mixed_files()

    def _cut_by_workers(
        self, runs: Iterator[CropRun], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[CropRun, PhotoFacts, dict[Shape, Any] | None]]:
        window = 2 * self._batch_size + self._workers * self._pace.run_views["workers"]
        takes_turns = self._pace.staged == 0
        waiting: deque[tuple[CropRun, Future[tuple[PhotoFacts, dict[Shape, Any] | None]]]] = deque()
        views = 0
        loading: tuple[int, Future[LoadedPhoto]] | None = None
        memory: dict[Shape, _BatchMemory] = {}
        for run in runs:
            if run.start == 0:
                memory = {
                    shape: _BatchMemory(batch_memory(self._batch_size, shape[0], self._place))
                    for shape in self._wanted(run)
                }
            if loading is None or loading[0] != run.image:
                loading = (run.image, pool.submit(self._load, run.image))
            waiting.append((run, pool.submit(self._cut, run, loading[1], memory)))
            views += len(run.views)
            if run.last_of_image:
                loading = None
            while (waiting and run.last_of_batch) if takes_turns else views > window:
                first, future = waiting.popleft()
                views -= len(first.views)
                yield (first, *future.result())
        while waiting:
            first, future = waiting.popleft()
            yield (first, *future.result())

    def _cut_on_device(
        self, runs: Iterator[CropRun], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[CropRun, PhotoFacts, dict[Shape, Any] | None]]:
        # A decoded photo takes what hundreds of its crops do: few wait at a time.
        window = self._workers + 2
        waiting: deque[tuple[CropRun, Future[LoadedPhoto]]] = deque()
        loading: tuple[int, Future[LoadedPhoto]] | None = None
        placed: tuple[int, Any] | None = None
        photos = 0

        def resized(
            run: CropRun, future: Future[LoadedPhoto]
        ) -> tuple[CropRun, PhotoFacts, dict[Shape, Any] | None]:
            nonlocal placed
            loaded = future.result()
            if not isinstance(loaded.photo, np.ndarray):
                return run, loaded.facts, None
            if placed is None or placed[0] != run.image:
                placed = (run.image, place_photo(loaded.photo, self._place))
            geometry = loaded.crops(run)
            return (
                run,
                loaded.facts,
                {
                    shape: resize_boxes(placed[1], geometry.box, geometry.flip, *shape)
                    for shape in self._wanted(run)
                },
            )

        for run in runs:
            if loading is None or loading[0] != run.image:
                loading = (run.image, pool.submit(self._load, run.image))
                photos += 1
            waiting.append((run, loading[1]))
            while photos > window:
                first, future = waiting.popleft()
                photos -= first.last_of_image
                yield resized(first, future)
                del future
        while waiting:
            yield resized(*waiting.popleft())

    def _assemble(
        self, cuts: Iterator[tuple[CropRun, PhotoFacts, dict[Shape, Any] | None]]
    ) -> Iterator[CropBatch]:
        """Join runs to batches in memory that the device reads fast."""
        runs: list[tuple[CropRun, PhotoFacts]] = []
        readable: list[CropRun] = []
        parts: list[dict[Shape, Any]] = []
        for run, photo, pixels in cuts:
            if photo.error is not None and self._on_error == "stop":
                raise DecodeError(
                    f"{photo.error} Mend or remove the file (labelstore check names all such), "
                    "or leave such images out (on_error='skip'); what was committed is kept.",
                    arguments=("on_error",),
                )
            runs.append((run, photo))
            if pixels is not None:
                readable.append(run)
                parts.append(pixels)
            if run.last_of_batch:
                joined = self._joined(runs, readable, parts) if parts else {}
                yield CropBatch(runs, readable, joined, ready_event(joined.values()))
                runs, readable, parts = [], [], []

    def _joined(
        self,
        runs: list[tuple[CropRun, PhotoFacts]],
        readable: list[CropRun],
        parts: list[dict[Shape, Any]],
    ) -> dict[Shape, torch.Tensor]:
        """The batch of each shape, of the runs that can be read."""
        if self._resize == "workers":
            # All parts are the batch's memory, which the workers filled.
            bounds = [slice(run.start, run.start + len(run.views)) for run in readable]
            if len(readable) == len(runs):
                bounds = [slice(0, bounds[-1].stop)]
            parts = [
                {shape: memory[bound] for shape, memory in parts[0].items()} for bound in bounds
            ]
        return {
            shape: place_batch([part[shape] for part in parts], self._place) for shape in parts[0]
        }

    def _wanted(self, run: CropRun) -> list[Shape]:
        """The distinct shapes that a run's teachers take, in order."""
        return list(dict.fromkeys(self._shapes[number] for number in run.teachers))

    def _load(self, image: int) -> LoadedPhoto:
        return self._photos.load(image, self._num_views)

    def _cut(
        self, run: CropRun, loading: Future[LoadedPhoto], memory: dict[Shape, _BatchMemory]
    ) -> tuple[PhotoFacts, dict[Shape, Any] | None]:
        """Fill a run's part of the memory of its batch."""
        # The photo was submitted before this run, so a worker has it or had it: no deadlock.
        loaded = loading.result()
        if loaded.photo is None:
            return loaded.facts, None
        part = slice(run.start, run.start + len(run.views))
        crops, partners = loaded.crops(run), self._photos.partners
        try:
            for (size, interpolation), batch in memory.items():
                out = batch.pixels[part]
                render(loaded.photo, crops, size, interpolation, out, partners)
        except NoPartnerError as error:
            reason = (
                f"the image {self._source.keys[run.image]!r} has views mixed with those of a photo "
                f"that cannot be decoded: {error}"
            )
            return replace(loaded.facts, error=reason), None
        return loaded.facts, {shape: batch.tensor for shape, batch in memory.items()}
