"""The producer's pipeline: batches of pixels -> teachers -> the arrays of blocks.

Pixels are made ahead (``labelstore.producer.crops``) and handed over by a bounded queue; on a GPU,
a batch is begun before the results of the one before it have come back.
"""

from __future__ import annotations

import contextlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from labelstore.errors import TeacherError, UsageError
from labelstore.format.blocks import BlockData, BlockPriors
from labelstore.labels.lists.fit import TOGETHER
from labelstore.producer.background import PACES, ahead
from labelstore.producer.crops.cutter import Cutter, shape_of
from labelstore.teachers.device_memory import default_batch_size, take
from labelstore.teachers.forward import Forward
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor, Future

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest
    from labelstore.images.sources.choose import ImageSource
    from labelstore.producer.crops.cutter import CropBatch
    from labelstore.producer.crops.photos import PartnerFile, PhotoFacts
    from labelstore.producer.crops.runs import CropRun
    from labelstore.producer.progress import Progress
    from labelstore.producer.settings import RunOptions
    from labelstore.teachers.teacher import Teacher

__all__ = ["LabelledBlock", "Labeller"]


@dataclass(frozen=True)
class LabelledBlock:
    """A finished block of one teacher."""

    block: int
    teacher: int
    data: BlockData
    views: int
    """How many views were labelled."""
    undecodable: Mapping[int, str] = field(default_factory=dict)
    """Position of each image that could not be decoded, and why."""
    notes: tuple[str, ...] = ()
    """What the user is to be told of the teacher."""
    mixed_files: Mapping[int, PartnerFile] = field(default_factory=dict)
    """By position, photos that views were mixed with, of this block or one before or behind it;
    each is told once."""


class _BlockArrays:
    """The arrays of a block as they fill."""

    def __init__(self, manifest: Manifest, block: int, fitters: Executor | None) -> None:
        """Empty arrays; lists of classes are fitted by ``fitters``, or at once where that is
        None."""
        self._fitters = fitters
        self._fits: list[Future[None]] = []
        self.views = 0
        self.undecodable: dict[int, str] = {}
        self._unlabelled: set[int] = set()
        self._manifest = manifest
        rows = manifest.block_slice(block)
        count = rows.stop - rows.start
        self._indices = np.zeros((count, manifest.num_views, manifest.k), dtype=np.int32)
        self._probs = np.zeros(self._indices.shape, dtype=np.float32)
        self._sizes = np.zeros((count, 2), dtype=np.int64)
        self._digests = np.zeros(count, dtype=np.uint64)
        self._readable = np.zeros(count, dtype=bool)
        # Sums of the full distributions of images whose list is not fitted, by row.
        self._sums: dict[int, npt.NDArray[np.float64]] = {}
        self._whole: list[int] = []
        self._priors = BlockPriors(manifest, count)

    def note(self, run: CropRun, photo: PhotoFacts) -> None:
        """Keep what is known of a photo."""
        self._sizes[run.row] = photo.width, photo.height
        self._digests[run.row] = photo.digest
        if photo.error is None:
            self._readable[run.row] = True
        else:
            # Of an image whose views are mixed, some may be there and others not.
            self.leave_out(run, photo.error)

    def leave_out(self, run: CropRun, reason: str) -> None:
        """Let an image have no labels."""
        self._unlabelled.add(run.row)
        self.undecodable[run.image] = reason

    def label(self, runs: list[CropRun], forward: Forward) -> None:
        """Take in the results of runs of views, in order."""
        classes, values, sums = forward.result()
        start = 0
        for run in runs:
            stop = start + len(run.views)
            columns = slice(run.views.start, run.views.stop)
            self._indices[run.row, columns] = classes[start:stop]
            self._probs[run.row, columns] = values[start:stop]
            start = stop
        self.views += start
        if sums is None:
            return
        for run, total in zip(runs, sums, strict=True):
            if not run.whole_image:  # it has a list already
                continue
            self._sums[run.row] = self._sums.get(run.row, 0.0) + total
            if run.last_of_image and run.row not in self._unlabelled:
                self._whole.append(run.row)
        if len(self._whole) >= TOGETHER:
            self._fit_lists()

    def _fit_lists(self) -> None:
        """Fit the lists of images whose views are all there."""
        rows, self._whole = np.array(self._whole, dtype=np.int64), []
        if not rows.size:
            return
        means = np.stack([self._sums.pop(row) for row in rows.tolist()]) / self._manifest.num_views
        images = rows, means, self._indices[rows], self._probs[rows]
        if self._fitters is None:
            self._priors.fit(*images)
        else:
            self._fits.append(self._fitters.submit(self._priors.fit, *images))

    def data(self) -> BlockData:
        """The finished block."""
        self._fit_lists()
        for fit in self._fits:
            fit.result()
        unlabelled = list(self._unlabelled)
        self._readable[unlabelled] = False
        self._sizes[unlabelled] = -1
        return BlockData(
            indices=self._indices,
            probs=self._probs,
            widths=self._sizes[:, 0],
            heights=self._sizes[:, 1],
            digests=self._digests,
            readable=self._readable,
            **self._priors.arrays(),
        )


class Labeller:
    """Runs teachers over blocks of images, each photo decoded once for all of them.

    Args:
        source: the images.
        teachers: each with the manifest of its store; law, number of views, number of images and
            block size are the same in all of them.
        options: of the run.
        first_views: (N,) of each image, the first view to label; the first of all when None. What
            a block's arrays hold of views before it, and of images without any, says nothing.
    """

    def __init__(
        self,
        source: ImageSource,
        teachers: list[tuple[Teacher, Manifest]],
        options: RunOptions,
        first_views: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self._teachers = teachers
        self._keys = source.keys
        self._on_error = options.on_error
        # Those whose first batch was compared with itself.
        self._checked: set[int] = set()
        first, self._manifest = teachers[0]
        if not isinstance(self._manifest.law, ViewLaw):
            raise UsageError(
                f"the view law is {self._manifest.law!r}, expected one that a producer can follow."
            )
        batch_size = options.batch_size or default_batch_size([teacher for teacher, _ in teachers])
        for teacher, _ in teachers:
            teacher.record(batch_size)
        self._pace = PACES[first.device]
        self._cutter = Cutter(
            source,
            self._manifest.law,
            [shape_of(teacher.preprocessing) for teacher, _ in teachers],
            first.place,
            batch_size,
            self._pace,
            options,
            first_views,
        )
        # With batches under way, waiting for pixels is not yet a device without work.
        self._times_idle = first.device == "cuda"
        self._idle = 0.0
        self._before: Forward | None = None
        self._fitters: ThreadPoolExecutor | None = None

    def blocks(
        self, todo: Iterable[tuple[int, tuple[int, ...]]], progress: Progress
    ) -> Iterator[LabelledBlock]:
        """Finished blocks in order.

        Args:
            todo: blocks, each with the numbers of the teachers that are to label it. It is asked
                for the next block in another thread, as soon as there is room for its pixels.
            progress: told after each batch; of images and views of the first teacher among several.
        """
        planned = ((block, self._manifest.block_slice(block), teachers) for block, teachers in todo)
        waiting: deque[tuple[CropBatch, dict[int, Forward]]] = deque()
        arrays: dict[int, _BlockArrays] = {}
        with (
            self._lists_beside(),
            ahead(
                self._cutter.batches(planned, self._manifest.num_views), self._pace.staged
            ) as batches,
        ):
            for batch in batches:
                waiting.append((batch, self._begin(batch)))
                progress.waited(self._idle if self._times_idle else batches.waited)
                while len(waiting) > self._pace.under_way:
                    yield from self._finish(*waiting.popleft(), arrays, progress)
            while waiting:
                yield from self._finish(*waiting.popleft(), arrays, progress)

    @contextlib.contextmanager
    def _lists_beside(self) -> Iterator[None]:
        """The thread that fits images' lists of classes, where there is one."""
        if not self._pace.lists_beside:
            yield
            return
        with ThreadPoolExecutor(1, thread_name_prefix="labelstore-lists") as fitters:
            self._fitters = fitters
            try:
                yield
            finally:
                self._fitters = None
                fitters.shutdown(wait=True, cancel_futures=True)

    def _begin(self, batch: CropBatch) -> dict[int, Forward]:
        """Hand a batch to its teachers."""
        if not batch.readable:
            return {}
        take(batch.ready, batch.pixels.values())
        forwards = {}
        lengths = [len(run.views) for run in batch.readable]
        for number in batch.readable[0].teachers:
            teacher, manifest = self._teachers[number]
            forwards[number] = Forward(
                teacher,
                batch.pixels[shape_of(teacher.preprocessing)],
                manifest.k,
                manifest.temperature or 1.0,
                lengths if manifest.prior_size else None,
                check=number not in self._checked,
            )
            self._checked.add(number)
        return forwards

    def _finish(
        self,
        batch: CropBatch,
        forwards: dict[int, Forward],
        arrays: dict[int, _BlockArrays],
        progress: Progress,
    ) -> Iterator[LabelledBlock]:
        """Take in the results of a batch; the blocks that it ends."""
        last = batch.runs[-1][0]
        for number in last.teachers:
            if number not in arrays:
                arrays[number] = _BlockArrays(self._teachers[number][1], last.block, self._fitters)
            for run, photo in batch.runs:
                arrays[number].note(run, photo)
            if number in forwards:
                arrays[number].label(batch.readable, forwards[number])
                self._leave_out(number, batch.readable, forwards[number].lost, arrays[number])
                self._note_idle(forwards[number])
        progress.update(
            sum(run.last_of_image for run, _ in batch.runs),
            sum(len(run.views) for run in batch.readable),
        )
        if last.last_of_block:
            for number in last.teachers:
                block = arrays.pop(number)
                yield LabelledBlock(
                    last.block,
                    number,
                    block.data(),
                    block.views,
                    block.undecodable,
                    self._teachers[number][0].notes,
                    self._cutter.mixed_files(),
                )

    def _leave_out(
        self, number: int, runs: list[CropRun], lost: Sequence[int], block: _BlockArrays
    ) -> None:
        """Name the images of views that have no finite logits, and stop or leave them out."""
        start = 0
        for run in runs:
            views = [run.views[row - start] for row in lost if 0 <= row - start < len(run.views)]
            start += len(run.views)
            if not views:
                continue
            shown = ", ".join(map(str, views[:5])) + (", ..." if len(views) > 5 else "")
            reason = (
                f"the image {self._keys[run.image]!r} has views ({shown}) of which "
                f"{self._teachers[number][0].spec} returned logits that are not finite, at "
                "precision fp32, too."
            )
            if self._on_error == "stop":
                raise TeacherError(
                    f"{reason} Look at the photo and at the network, or leave such images "
                    "out (on_error='skip'); what was committed is kept.",
                    arguments=("on_error",),
                )
            block.leave_out(run, reason)

    def _note_idle(self, forward: Forward) -> None:
        if self._before is not None:
            self._idle += forward.idle_since(self._before)
        self._before = forward
