"""The producer's pipeline: decode -> cut -> teacher -> the arrays of a block.

Worker threads decode and cut ahead of the teacher within a bounded window, in a fixed order: memory
does not grow with the number of views, each photo is decoded once, and the teacher's batches are
the same in a resumed run as in an undisturbed one.
"""

from __future__ import annotations

import itertools
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from labelstore import prior
from labelstore.blocks import BlockData
from labelstore.encoding import cut_at_mass
from labelstore.errors import SourceError, UsageError
from labelstore.images import content_digest, cut, decode
from labelstore.inference import sums_of_runs, top_k
from labelstore.philox import hash_keys
from labelstore.views import ViewLaw

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    import torch
    from PIL.Image import Image

    from labelstore.manifest import Manifest
    from labelstore.sources import ImageSource
    from labelstore.teachers import Teacher

__all__ = ["Labeller", "Progress"]

RUN_VIEWS = 32
"""Views that one worker task cuts: enough to outweigh the hand-over, few enough to keep workers
evenly busy."""


class Progress(Protocol):
    """What is told of the work as it goes on."""

    def resumed(self, images: int) -> None:
        """So many images were finished by an earlier run."""

    def update(self, images: int, views: int) -> None:
        """So many more images finished, and views labelled."""


@dataclass(frozen=True)
class Run:
    """Consecutive views of one image."""

    row: int
    """The image's place in its block."""
    image: int
    views: range


@dataclass(frozen=True)
class Photo:
    """A decoded photo, or why there is none."""

    key: str
    image: Image | None
    digest: int
    width: int
    height: int
    error: str | None


Cut = tuple[Run, Photo, "npt.NDArray[np.uint8] | None"]


class _Block:
    """The arrays of a block as they fill."""

    def __init__(self, manifest: Manifest, count: int) -> None:
        self.views = 0
        """How many views were labelled."""
        self._manifest = manifest
        self._indices = np.zeros((count, manifest.num_views, manifest.k), dtype=np.int32)
        self._probs = np.zeros(self._indices.shape, dtype=np.float32)
        # What is kept of each photo; the photos themselves would fill the memory.
        self._sizes = np.zeros((count, 2), dtype=np.int64)
        self._digests = np.zeros(count, dtype=np.uint64)
        self._readable = np.zeros(count, dtype=bool)
        # Sums of the full distributions of images that are not finished, by row.
        self._sums: dict[int, npt.NDArray[np.float64]] = {}
        self._lists = np.full((count, manifest.prior_size), -1, dtype=np.int32)
        self._list_probs = np.zeros(self._lists.shape, dtype=np.uint8)
        self._powers = np.zeros(count, dtype=np.uint8)

    def note(self, run: Run, photo: Photo) -> None:
        """Keep what is known of a photo."""
        self._sizes[run.row] = photo.width, photo.height
        self._digests[run.row] = photo.digest
        self._readable[run.row] = photo.image is not None

    def label(self, runs: list[Run], logits: torch.Tensor) -> None:
        """Take in the logits of runs of views, in order."""
        manifest = self._manifest
        temperature = manifest.temperature or 1.0
        classes, values = top_k(logits, manifest.k, temperature)
        start = 0
        for run in runs:
            stop = start + len(run.views)
            columns = slice(run.views.start, run.views.stop)
            self._indices[run.row, columns] = classes[start:stop]
            self._probs[run.row, columns] = values[start:stop]
            start = stop
        self.views += start
        if not manifest.prior_size:
            return
        sums = sums_of_runs(logits, [len(run.views) for run in runs], temperature)
        for run, total in zip(runs, sums, strict=True):
            self._sums[run.row] = self._sums.get(run.row, 0.0) + total
            if run.views.stop == manifest.num_views:
                self._finish(run.row)

    def _finish(self, row: int) -> None:
        """The prior of an image whose views are all there."""
        self._lists[row], self._list_probs[row], self._powers[row] = prior.fit(
            self._sums.pop(row) / self._manifest.num_views,
            self._indices[row],
            cut_at_mass(self._probs[row], self._manifest.top_p),
            self._manifest.prior_size,
        )

    def data(self) -> BlockData:
        """The finished block."""
        return BlockData(
            indices=self._indices,
            probs=self._probs,
            widths=self._sizes[:, 0],
            heights=self._sizes[:, 1],
            digests=self._digests,
            readable=self._readable,
            prior_classes=self._lists,
            prior_probs=self._list_probs,
            prior_power=self._powers,
        )


class Labeller:
    """Runs the teacher over blocks of images."""

    def __init__(
        self,
        source: ImageSource,
        teacher: Teacher,
        manifest: Manifest,
        batch_size: int,
        workers: int,
        on_error: str,
    ) -> None:
        self._source = source
        self._teacher = teacher
        self._manifest = manifest
        self._batch_size = batch_size
        self._workers = workers
        self._on_error = on_error
        self._hashes = hash_keys(source.keys)

    def blocks(
        self, pending: list[int], progress: Progress
    ) -> Iterator[tuple[int, BlockData, int]]:
        """Finished blocks in order, each with the number of its labelled views."""
        with ThreadPoolExecutor(self._workers, thread_name_prefix="labelstore") as pool:
            try:
                stream = self._batches(pending, pool)
                for block, batches in itertools.groupby(stream, key=lambda item: item[0]):
                    yield self._block(block, (batch for _, batch in batches), progress)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _block(
        self, block: int, batches: Iterator[list[Cut]], progress: Progress
    ) -> tuple[int, BlockData, int]:
        manifest = self._manifest
        rows = manifest.block_slice(block)
        count = rows.stop - rows.start
        made = _Block(manifest, count)
        for batch in batches:
            finished = 0
            places, pixels = [], []
            for run, photo, cuts in batch:
                finished += run.views.stop == manifest.num_views
                if photo.image is None and self._on_error == "stop":
                    raise SourceError(
                        f"{photo.error} Mend or remove the file, or give --on-error skip to leave "
                        "such images out; what was committed is kept."
                    )
                made.note(run, photo)
                if cuts is not None:
                    places.append(run)
                    pixels.append(cuts)
            if pixels:
                made.label(places, self._teacher.logits(np.concatenate(pixels)))
            progress.update(finished, sum(len(run.views) for run in places))
        return block, made.data(), made.views

    def _batches(
        self, pending: list[int], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[int, list[Cut]]]:
        """Batches in order, cut ahead of time within a bounded window of views."""
        window = 2 * self._batch_size + self._workers * RUN_VIEWS
        ahead: deque[tuple[int, list[tuple[Run, Future[Cut]]]]] = deque()
        waiting = 0
        photo: tuple[int, Future[Photo]] | None = None
        for block, runs in self._plan(pending):
            futures = []
            for run in runs:
                if photo is None or photo[0] != run.image:
                    photo = (run.image, pool.submit(self._load, run.image))
                futures.append((run, pool.submit(self._cut, run, photo[1])))
            ahead.append((block, futures))
            waiting += sum(len(run.views) for run in runs)
            while waiting > window:
                waiting -= sum(len(run.views) for run, _ in ahead[0][1])
                yield _collect(ahead.popleft())
        while ahead:
            yield _collect(ahead.popleft())

    def _plan(self, pending: list[int]) -> Iterator[tuple[int, list[Run]]]:
        """The runs of each batch: batches never cross a block, so resuming changes none."""
        views = self._manifest.num_views
        for block in pending:
            rows = self._manifest.block_slice(block)
            total = (rows.stop - rows.start) * views
            for first in range(0, total, self._batch_size):
                runs, position = [], first
                last = min(first + self._batch_size, total)
                while position < last:
                    row, view = divmod(position, views)
                    length = min(views - view, last - position, RUN_VIEWS)
                    runs.append(Run(row, rows.start + row, range(view, view + length)))
                    position += length
                yield block, runs

    def _load(self, image: int) -> Photo:
        key = self._source.keys[image]
        digest = 0
        try:
            data = self._source.read(image)
            digest = content_digest(data)
            upright = decode(data, str(self._source.path_of(image)))
        except SourceError as error:
            return Photo(key, None, digest, -1, -1, str(error))
        return Photo(key, upright, digest, upright.width, upright.height, None)

    def _cut(self, run: Run, loading: Future[Photo]) -> Cut:
        # The photo was submitted before this run, so a worker has it or had it: no deadlock.
        photo = loading.result()
        if photo.image is None:
            return run, photo, None
        law, preprocessing = self._manifest.law, self._teacher.preprocessing
        if not isinstance(law, ViewLaw):
            raise UsageError(f"the view law is {law!r}, expected one that a producer can follow.")
        geometry = law(
            self._hashes[run.image],
            np.arange(run.views.start, run.views.stop),
            photo.width,
            photo.height,
        )
        size, filter = preprocessing.input_size, preprocessing.interpolation
        pixels = np.empty((len(run.views), *size, 3), dtype=np.uint8)
        for place, (box, flip) in enumerate(zip(geometry.box, geometry.flip, strict=True)):
            pixels[place] = cut(photo.image, box.tolist(), bool(flip), size, filter)
        return run, photo, pixels


def _collect(item: tuple[int, list[tuple[Run, Future[Cut]]]]) -> tuple[int, list[Cut]]:
    block, futures = item
    return block, [future.result() for _, future in futures]
