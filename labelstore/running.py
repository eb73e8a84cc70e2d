"""A run over a store's missing blocks, from claim to commit, and the engine of one process."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from labelstore.errors import UsageError
from labelstore.inference import Teacher
from labelstore.pipeline import Labeller, default_batch_size
from labelstore.probes import check_device_resize

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from labelstore.cutting import Resize
    from labelstore.manifest import Manifest
    from labelstore.pipeline import Progress
    from labelstore.ray_engine import Described
    from labelstore.sources import ImageSource
    from labelstore.writer import Share, StoreWriter

__all__ = ["LocalEngine", "Run"]

WAIT_SECONDS = 1.0
"""Between looks at what other processes have left to do."""


class LocalEngine:
    """The teachers in this process; ``RayEngine`` has one in each of its actors."""

    def __init__(
        self,
        source: ImageSource,
        teachers: Sequence[Teacher | Described],
        batch_size: int | None,
        compiled: bool,
    ) -> None:
        self._source = source
        self._teachers = [one for one in teachers if isinstance(one, Teacher)]
        if len(self._teachers) < len(teachers):
            raise UsageError("a teacher of an engine was given without its engine: give both.")
        self._compiled_for: int | None = None
        if compiled:
            self._compiled_for = batch_size or default_batch_size(self._teachers)
            for teacher in self._teachers:
                teacher.compile(self._compiled_for)

    def labeller(
        self,
        manifests: list[Manifest],
        batch_size: int | None,
        workers: int,
        on_error: str,
        resize: Resize,
        path: str,
    ) -> Labeller:
        """What makes the blocks of stores."""
        batch_size = batch_size or self._compiled_for or default_batch_size(self._teachers)
        pairs = list(zip(self._teachers, manifests, strict=True))
        for teacher, manifest in pairs:
            if resize == "device":
                check_device_resize(self._source, teacher, manifest, path)
        return Labeller(self._source, pairs, batch_size, workers, on_error, resize)


class Run:
    """The blocks of a run.

    Args:
        writers: of the stores, entered; their blocks are the same images.
        progress: told of the work; images that are there already at once.

    Attributes:
        found: blocks of each store that were committed before.
        blocks, views: made of each store.
        seconds: from the start to the last commit.
        notes: what the user is to be told of each store's teacher.
        waited_seconds: of them, the teachers had no pixels to work on.
    """

    def __init__(self, writers: list[StoreWriter], progress: Progress) -> None:
        self._writers = writers
        self._manifest = writers[0].manifest
        self._progress = progress
        self.found = [w.manifest.num_blocks - len(w.pending_blocks()) for w in writers]
        self.blocks = [0] * len(writers)
        self.views = [0] * len(writers)
        self.notes: list[dict[str, None]] = [{} for _ in writers]
        # Told as finished: what every store has, or this run or another process made.
        self._told = set(range(self._manifest.num_blocks)) - self._pending()
        progress.resumed(sum(self._images_of(block) for block in self._told))
        self.waited_seconds = 0.0
        self._started = time.monotonic()
        self.seconds = 0.0

    def through(self, labeller: Any, share: Share | None) -> None:
        """Make all blocks, or with a share all that no other process makes."""
        while True:
            # One block is written while the next one is made; no more wait in memory.
            with ThreadPoolExecutor(1, thread_name_prefix="labelstore-disk") as disk:
                writing: Future[None] | None = None
                for made in labeller.blocks(self._claims(share), self):
                    if writing is not None:
                        writing.result()
                    writer = self._writers[made.teacher]
                    writing = disk.submit(writer.write_block, made.block, made.data)
                    self.blocks[made.teacher] += 1
                    self.views[made.teacher] += made.views
                    self.notes[made.teacher].update(dict.fromkeys(made.notes))
                if writing is not None:
                    writing.result()
            self.seconds = time.monotonic() - self._started
            if not all(writer.takes_over for writer in self._writers):
                return
            for writer in self._writers:
                writer.refresh()
            self._tell_others()
            if not self._pending():
                return
            time.sleep(WAIT_SECONDS)

    def _claims(self, share: Share | None) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Blocks to make, each with the numbers of the stores that lack it."""
        pending = sorted(self._pending())
        if share is not None:
            # Each process begins elsewhere, so that claims seldom meet.
            first = len(pending) * share.rank // share.world
            pending = pending[first:] + pending[:first]
        for block in pending:
            lacking = tuple(
                number for number, writer in enumerate(self._writers) if writer.claim(block)
            )
            if lacking:
                self._told.add(block)
                yield block, lacking
            else:
                self._tell_others()

    def _tell_others(self) -> None:
        """Tell of blocks that other processes have made."""
        for block in set(range(self._manifest.num_blocks)) - self._pending() - self._told:
            self._told.add(block)
            self._progress.resumed(self._images_of(block))

    def _pending(self) -> set[int]:
        return {block for writer in self._writers for block in writer.pending_blocks()}

    def _images_of(self, block: int) -> int:
        rows = self._manifest.block_slice(block)
        return int(rows.stop - rows.start)

    # What the labeller is told to tell

    def resumed(self, images: int) -> None:
        """Pass on."""
        self._progress.resumed(images)

    def update(self, images: int, views: int) -> None:
        """Pass on."""
        self._progress.update(images, views)

    def waited(self, seconds: float) -> None:
        """Pass on, and keep."""
        self.waited_seconds = seconds
        self._progress.waited(seconds)
