"""A run over a store's missing blocks, from claim to commit."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from labelstore.errors import LaunchWarning
from labelstore.producer.stopping import StopRequest, Terminated, deferred
from labelstore.storage.partner_records import PartnerRecords
from labelstore.store.mixed_views import PartnerFiles, RecordedFiles, mixing_of
from labelstore.store.rewrite import Copying
from labelstore.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from labelstore.producer.engines.protocol import BlockLabeller
    from labelstore.producer.growth.growth import Growth
    from labelstore.producer.labeller import LabelledBlock
    from labelstore.producer.progress import Progress
    from labelstore.store.writer import Share, StoreWriter

__all__ = ["StoreRun"]

WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 20.0
"""Between looks at what other processes have left to do: at first, and after long without news."""

PATIENCE_SECONDS, NOTICE_SECONDS = 600.0, 30.0
"""On an object store, how long a process is waited for that was never seen, and when it is told."""


class StoreRun:
    """The blocks of a run.

    Args:
        writers: of the stores, entered; their blocks are the same images.
        progress: told of the work; images that are there already at once.
        stop: whether the run was told to end.
        growth: what is taken over where the one store that is made grows out of another.

    Attributes:
        committed: blocks of each store that were committed before.
        blocks, views: made of each store.
        seconds: from the start to the last commit.
        notes: what the user is to be told of each store's teacher.
        waited_seconds: of them, the teachers had no pixels to work on.
        undecodable: position of each image that could not be decoded in this run, and why.
    """

    def __init__(
        self,
        writers: list[StoreWriter],
        progress: Progress,
        stop: StopRequest | None = None,
        growth: Growth | None = None,
    ) -> None:
        self._growth = growth
        self._writers = writers
        self._files: PartnerFiles | None = None
        self._records: list[RecordedFiles] = []
        # Blocks of each store whose photos' digests were taken in.
        self._learned: list[set[int]] = [set() for _ in writers]
        self._manifest = writers[0].manifest
        self._progress = progress
        self.committed = [w.manifest.num_blocks - len(w.pending_blocks()) for w in writers]
        self.blocks = [0] * len(writers)
        self.views = [0] * len(writers)
        self.undecodable: dict[int, str] = {}
        self.notes: list[dict[str, None]] = [{} for _ in writers]
        # Told as finished: what every store has, or this run or another process made.
        self._reported = set(range(self._manifest.num_blocks)) - self._pending()
        progress.resumed(sum(self._images_of(block) for block in self._reported))
        self.waited_seconds = 0.0
        self._writing: Future[None] | None = None
        self._stop = stop or StopRequest()
        # Blocks whose pixels were asked for and that are not labelled, and what is done of the
        # first of them.
        self._at_work: deque[int] = deque()
        self._views_done = self._views_seen = 0
        # Processes of this launch that have been seen at an object store.
        self._seen: set[int] = set()
        self._told_waiting = False
        self._pause = WAIT_SECONDS
        self._started = time.monotonic()
        self.seconds = 0.0

    def through(self, labeller: BlockLabeller, share: Share | None) -> None:
        """Make all blocks, or with a share all that no other process makes.

        Raises:
            MismatchError: photos that views are mixed with are other files here than they were for
                another block, another process or the run before.
        """
        self._open_files()
        while True:
            # One block is written while the next one is made; no more wait in memory.
            with (
                ThreadPoolExecutor(1, thread_name_prefix="labelstore-disk") as disk,
                deferred(self._stop),
            ):
                self._take_over()
                for labelled in labeller.blocks(self._claims(share), self):
                    number = labelled.teacher
                    self._written(wait=True)
                    self._require_same_files(labelled, share)
                    self._writing = disk.submit(self._write, labelled)
                    self.blocks[number] += 1
                    self.views[number] += labelled.views
                    self.undecodable |= labelled.undecodable
                    self.notes[number].update(dict.fromkeys(labelled.notes))
                    self._ended(labelled.block)
                self._written(wait=True)
            self.seconds = time.monotonic() - self._started
            if share is None or not self._pending_elsewhere():
                break
        self._close_files()

    def close_records(self) -> None:
        """Of stores that are complete: compare the records that a run which died has left, or one
        that saw different files, with all photos, and delete them.

        Raises:
            MismatchError: as ``through``. CorruptError: a record is damaged.
        """
        if any(records.are_there() for records in self._new_records(PartnerFiles([]))):
            self._open_files()
            self._close_files()

    def _new_records(self, files: PartnerFiles) -> list[RecordedFiles]:
        """Of each store; none where no views are mixed."""
        if mixing_of(self._manifest.law) is None:
            return []
        return [
            RecordedFiles(files, PartnerRecords(writer.path, writer.manifest.id))
            for writer in self._writers
        ]

    def _open_files(self) -> None:
        """Learn what is known of the photos that views are mixed with."""
        mixing = mixing_of(self._manifest.law)
        if mixing is None:
            return
        self._files = PartnerFiles(Store(self._writers[0].path).keys[: mixing.partners])
        self._records = self._new_records(self._files)
        if self._growth is not None:
            self._files.learn(self._growth.store, range(self._growth.store.manifest.num_blocks))
        for writer in self._writers:
            store = Store(writer.path)
            remade = set(writer.pending_blocks()) - set(store.missing_blocks())
            self._files.learn(store, sorted(remade), remade=True)
        self._learn_files()

    def _close_files(self) -> None:
        """Compare all photos once more, and delete the records of stores that are complete."""
        self._learn_files()
        for writer, records in zip(self._writers, self._records, strict=False):
            if not writer.pending_blocks():
                records.clear()

    def _learn_files(self) -> None:
        """Compare the photos of blocks that are committed, by whomever, and those that views of
        such blocks were mixed with, with what is known."""
        if self._files is None:
            return
        for records in self._records:
            records.learn()
        for number, writer in enumerate(self._writers):
            committed = set(range(self._manifest.num_blocks)) - set(writer.pending_blocks())
            blocks = sorted(committed - self._learned[number])
            if blocks:
                self._files.learn(Store(writer.path), blocks)
            self._learned[number] = committed

    def _require_same_files(self, labelled: LabelledBlock, share: Share | None) -> None:
        """Refuse a block whose photos, or those that its views are mixed with, are other files
        than they were elsewhere in the store; and write down which they are."""
        if self._files is None:
            return
        if share is not None:
            for writer in self._writers:
                writer.refresh()
            self._learn_files()
        rows, digests = self._manifest.block_slice(labelled.block), labelled.data.digests
        own = {} if digests is None else dict(enumerate(digests.tolist(), rows.start))
        mixed = labelled.mixed_files
        self._files.require(
            {image: file.digest for image, file in mixed.items()},
            [image for image, file in mixed.items() if not file.decodable],
        )
        self._files.require(own, labelled.undecodable.keys())
        self._records[labelled.teacher].write(together=share is not None)

    def _write(self, labelled: LabelledBlock) -> None:
        writer = self._writers[labelled.teacher]
        if self._growth is None:
            writer.write_block(labelled.block, labelled.data)
        else:
            codes = self._growth.codes(self._manifest, labelled.block, labelled.data)
            writer.write_codes(labelled.block, codes)

    def _take_over(self) -> None:
        """Copy the blocks of a store that grows of which nothing is to be labelled."""
        if self._growth is None:
            return
        (writer,), growth = self._writers, self._growth
        claimed = (
            block
            for block in writer.pending_blocks()
            if not self._views_of(block) and writer.claim(block)
        )
        copying = Copying.of(writer, [growth.store])
        copied = copying.copied(claimed, lambda block: growth.copy(self._manifest, block))
        with contextlib.closing(copied):
            for block in copied:
                self.blocks[0] += 1
                self._reported.add(block)
                self._progress.resumed(self._images_of(block))
                if self._stop.asked:
                    raise Terminated

    def _ended(self, block: int) -> None:
        """A block was labelled: a run that is to end does so now.

        Of several teachers the others' labels come next: then the next batch ends it.
        """
        if self._at_work and self._at_work[0] == block:
            self._at_work.popleft()
            self._views_done = 0
        if self._stop.asked and len(self._writers) == 1:
            self._written(wait=True)
            raise Terminated

    def _seconds_left(self) -> float:
        """How long the block in work still takes, at the speed of this run."""
        if not self._at_work or not self._views_seen:
            return float("inf")
        views = self._views_of(self._at_work[0])
        speed = self._views_seen / (time.monotonic() - self._started)
        return max(views - self._views_done, 0) / speed

    def _written(self, wait: bool) -> None:
        """Raise what the last block's writing raised, as soon as it has."""
        if self._writing is not None and (wait or self._writing.done()):
            self._writing.result()

    def _pending_elsewhere(self) -> bool:
        """Wait for other processes; whether there may be blocks to make that they have left.

        Where each process has its own blocks there are none: until all are there, or those who
        lack are gone.
        """
        started = time.monotonic()
        while True:
            before = self._pending()
            for writer in self._writers:
                writer.refresh()
            self._tell_others()
            pending = self._pending()
            if not pending:
                return False
            news = pending != before
            self._pause = WAIT_SECONDS if news else min(2 * self._pause, LONGEST_WAIT_SECONDS)
            if all(writer.takes_over for writer in self._writers):
                time.sleep(self._pause)
                return True
            if not self._is_coming(len(pending), time.monotonic() - started):
                # Who is gone may have committed the last block since that was looked for.
                for writer in self._writers:
                    writer.refresh()
                return False
            time.sleep(self._pause)

    def _is_coming(self, missing: int, waited: float) -> bool:
        """Whether those who make the missing blocks are there, or may still begin."""
        looks = [writer.awaited() for writer in self._writers]
        self._seen |= set().union(*(begun for begun, _ in looks))
        gone = set().union(*(gone for _, gone in looks))
        never = gone - self._seen
        if gone - never or (never and waited > PATIENCE_SECONDS):
            return False
        if never and waited > NOTICE_SECONDS and not self._told_waiting:
            self._told_waiting = True
            warnings.warn(
                f"this process has made its blocks and waits for {missing} of others; the "
                f"processes {', '.join(map(str, sorted(never)))} have not begun: if nobody starts "
                "them, unset WORLD_SIZE and SLURM_NTASKS.",
                LaunchWarning,
                stacklevel=2,
            )
        return True

    def _claims(self, share: Share | None) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Blocks to make, each with the numbers of the stores that lack it."""
        pending = sorted(block for block in self._pending() if self._views_of(block))
        if share is not None:
            # Each process begins elsewhere, so that claims seldom meet.
            first = len(pending) * share.rank // share.world
            pending = pending[first:] + pending[:first]
        for block in pending:
            lacking = tuple(
                number for number, writer in enumerate(self._writers) if writer.claim(block)
            )
            if lacking:
                self._reported.add(block)
                self._at_work.append(block)
                yield block, lacking
            else:
                self._tell_others()

    def _tell_others(self) -> None:
        """Tell of blocks that other processes have made."""
        for block in set(range(self._manifest.num_blocks)) - self._pending() - self._reported:
            self._reported.add(block)
            self._progress.resumed(self._images_of(block))

    def _pending(self) -> set[int]:
        return {block for writer in self._writers for block in writer.pending_blocks()}

    def _images_of(self, block: int) -> int:
        rows = self._manifest.block_slice(block)
        return int(rows.stop - rows.start)

    def _views_of(self, block: int) -> int:
        """Views to label."""
        if self._growth is None:
            return self._images_of(block) * self._manifest.num_views
        return self._growth.views_of(self._manifest, block)

    # What the labeller is told to tell

    def resumed(self, images: int) -> None:
        """Pass on."""
        self._progress.resumed(images)

    def update(self, images: int, views: int) -> None:
        """Pass on, and stop where the last block could not be written: no teacher runs in vain."""
        self._written(wait=False)
        self._views_done += views
        self._views_seen += views
        self._progress.update(images, views)
        self._stop.check(self._seconds_left())

    def waited(self, seconds: float) -> None:
        """Pass on, and keep."""
        self.waited_seconds = seconds
        self._progress.waited(seconds)
