"""Slabs: what an epoch reads, verified once, in memory once a machine, and read ahead.

A slab is one group of views of all images (or of the first blocks of them, where the bound leaves
no room for more), as the codes of the store's arrays: ``1 + 2 k + (k - 1)`` bytes a label for
class ids of two bytes and probabilities of one, two more for a finer largest probability. They are
decoded as a batch is read, which takes less time than reading decoded ones would. The prior lists
of all images, which every epoch needs, are shared in the same way.

A slab is a file of ``labelstore.store.slabs.shared_file``, by default in ``/dev/shm``. What it is
called follows from the store's id and the commit digests of its chunks, so that one made of a store
that was changed since is never met; it is filled with chunks that were compared with those very
digests.

What pays for it: ``python -m benchmarks.read_epoch``, an epoch from slabs and chunk by chunk.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import threading
import time
import warnings
from typing import TYPE_CHECKING

import numpy as np

from labelstore.errors import (
    CorruptError,
    FallbackWarning,
    IncompleteError,
    LabelStoreError,
    StoreError,
)
from labelstore.store.slabs import shared_file
from labelstore.store.slabs.slab import Slab, SlabLayouts
from labelstore.store.slabs.slab_maker import NoRoomError, SlabMaker, bytes_of_others

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from labelstore.labels.top_k import TopK
    from labelstore.store.chunks.label_decoder import LabelDecoder
    from labelstore.store.chunks.reader import BlockReader
    from labelstore.store.slabs.shared_file import SharedArrays
    from labelstore.store.slabs.slab import Codes, Int64Array

__all__ = ["SLAB_BYTES", "SlabCache"]

SLAB_BYTES = 2 * 2**30
"""Bytes of all slabs of a store on a machine, by default at most."""

_IDLE_READS = 32
"""A worker gives up a slab that so many reads in a row, for each that it has, had no use for."""

_LOOK_SECONDS = 0.25
"""How long a slab that was not there is not looked for again."""

_PATIENCE_SECONDS = 0.5
"""How long training waits for a slab that others, who still read an old one, leave no room for."""

_LOOK_AGAIN_SECONDS = 0.02
"""How often it is looked whether there is room."""


class _GivenUpError(Exception):
    """A slab that is being made is no longer wanted."""


class SlabCache:
    """The slabs of one store that this process uses, and those it reads ahead.

    A process that calls ``read_ahead`` makes them; others (workers) use those that are there. Where
    a slab is missing, for whatever reason, labels are read from the store, chunk by chunk.
    """

    def __init__(
        self,
        reader: BlockReader,
        decoder: LabelDecoder,
        slab_bytes: int,
        folder: Path | None = None,
    ) -> None:
        """Plan for a store.

        Args:
            reader: reads and verifies chunks.
            decoder: makes labels of codes.
            slab_bytes: of all slabs of the store on this machine together; 0 for none.
            folder: where slabs lie; ``labelstore.store.slabs.shared_file.default_folder`` when
                None.
        """
        self.slab_bytes = slab_bytes
        self._folder = folder
        self._reader = reader
        self._decoder = decoder
        self._manifest = reader.manifest
        self._slabs: dict[int, Slab] = {}
        self._lists: SharedArrays | None = None
        self._last_use: dict[int, int] = {}
        self._looked: dict[int | None, float] = {}
        self._reads = 0
        self._owner: int | None = None
        self._asked: set[int] = set()
        self._wanted: list[int] = []
        self._pending: set[int] = set()
        self._crowded = False
        self._problems: list[str] = []
        self._layouts = SlabLayouts(reader)
        self._maker = SlabMaker(reader, self._layouts)
        self._state = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def folder(self) -> Path:
        """Where slabs lie."""
        return self._folder or shared_file.default_folder(self.slab_bytes)

    # Reading

    def gather(self, images: Int64Array, views: Int64Array) -> Codes:
        """Codes (n, ...) of views, from slabs where they are there, else from the store."""
        if not len(views) or not (self.slab_bytes or self._slabs):
            return self._reader.gather(images, views)
        groups = views // self._manifest.group_views
        self._reads += 1
        self._share_lists()
        if (groups == groups[0]).all():
            slab = self._slab_of(int(groups[0]))
            if slab is not None and int(images.max()) < slab.num_images:
                self._drop_idle()
                return slab.gather(images, views)
        out: Codes = {}
        left = np.ones(len(views), dtype=bool)
        for group in np.unique(groups).tolist():
            slab = self._slab_of(group)
            if slab is not None:
                rows = np.flatnonzero((groups == group) & (images < slab.num_images))
                _put(out, slab.gather(images[rows], views[rows]), rows, len(views))
                left[rows] = False
        self._drop_idle()
        rows = np.flatnonzero(left)
        if len(rows):
            _put(out, self._reader.gather(images[rows], views[rows]), rows, len(views))
        return out

    def label(self, image: int, view: int) -> TopK | None:
        """The label (k,) of one view; None where ``gather`` and the decoder have more to do."""
        if self.slab_bytes or self._slabs:
            return None
        return self._reader.decoded(image, view, functools.partial(self._decoder.label, image))

    def _slab_of(self, group: int) -> Slab | None:
        """A slab in use, or one that another process has made."""
        slab = self._open_slab(group)
        if slab is None and self.slab_bytes and not self._is_owner():
            slab = self._slab_of_others(group)
        if slab is not None:
            self._last_use[group] = self._reads
        return slab

    def _open_slab(self, group: int) -> Slab | None:
        slab = self._slabs.get(group)
        if slab is not None and slab.closed:
            # Its holder gave it up: the memory goes with the last reference.
            self._slabs.pop(group, None)
            return None
        return slab

    def _slab_of_others(self, group: int) -> Slab | None:
        now = time.monotonic()
        if now < self._looked.get(group, 0.0):
            return None
        blocks = self._layouts.blocks(group, self.slab_bytes)
        shared = (
            shared_file.find(self.folder, self._layouts.layout(group, blocks)) if blocks else None
        )
        if shared is None:
            self._looked[group] = now + _LOOK_SECONDS
            return None
        self._slabs[group] = slab = self._slab(shared, group, blocks)
        return slab

    def _share_lists(self) -> None:
        """Use the prior lists that another process has made."""
        if self._lists is not None or not self._manifest.prior_size or self._is_owner():
            return
        if not self.slab_bytes:
            return
        now = time.monotonic()
        if now < self._looked.get(None, 0.0):
            return
        self._looked[None] = now + _LOOK_SECONDS
        if self._layouts.lists_fit(self.slab_bytes):
            self._adopt(shared_file.find(self.folder, self._layouts.lists()))

    def _adopt(self, shared: SharedArrays | None) -> None:
        if shared is not None:
            self._lists = shared
            self._reader.prior_lists.use(shared.arrays)

    def _drop_idle(self) -> None:
        """In a worker: give up slabs of the epochs before."""
        if self._is_owner():
            return
        # The more slabs an epoch has, the longer each is without use. Several threads may be here.
        patience = _IDLE_READS * len(self._slabs)
        for group in [group for group in list(self._slabs) if group not in self._asked]:
            if self._reads - self._last_use.get(group, self._reads) > patience:
                slab = self._slabs.pop(group, None)
                if slab is not None:
                    slab.close()
            else:
                self._last_use.setdefault(group, self._reads)

    def _is_owner(self) -> bool:
        return self._owner == os.getpid()

    # Making

    def get(self, group: int) -> Slab:
        """The slab of a group, made now where it is not there.

        Raises:
            OSError, StoreError: it cannot be made, or does not fit into ``slab_bytes`` beside the
            others; IncompleteError, CorruptError: the store lacks labels.
        """
        slab = self._open_slab(group)
        if slab is None:
            blocks = (
                self._layouts.blocks(group, self.slab_bytes)
                if self.slab_bytes
                else self._manifest.num_blocks
            )
            try:
                shared = self._make_file(group, blocks)
            except NoRoomError:
                layout = self._layouts.layout(group, blocks)
                others = bytes_of_others(self.folder, layout)
                raise StoreError(
                    f"{self._reader.path}: the slab of group {group} takes {layout.nbytes:,} bytes "
                    f"beside {others:,} of others, and slab_bytes is {self.slab_bytes:,}: close a "
                    "slab, or open the store with more slab_bytes."
                ) from None
            slab = self._slab(shared, group, blocks)
            self._slabs[group] = slab
        self._asked.add(group)
        return slab

    def held(self) -> set[int]:
        """The groups whose slabs this process has."""
        return {group for group, slab in list(self._slabs.items()) if not slab.closed}

    def fitting(self, groups: Sequence[int]) -> list[int]:
        """Those of groups, in their order, whose slabs fit into ``slab_bytes`` together; the first
        in any case, of which as many blocks are held as fit."""
        return self._layouts.fitting(groups, self.slab_bytes)

    def read_ahead(self, groups: Sequence[int]) -> None:
        """Make the slabs of groups in the background, in this order, and give up all others.

        What does not fit into ``slab_bytes`` waits until other processes have given up the slabs of
        the epoch before. What cannot be made is left out; ``wait`` warns of it.
        """
        wanted = list(groups)
        if not self.slab_bytes or (self._is_owner() and wanted == self._wanted):
            return
        if not self._is_owner():
            # A forked process has its parent's slabs, but not the parent's thread.
            self._owner, self._state = os.getpid(), threading.Condition()
        with self._state:
            self._crowded = False
            self._wanted = wanted
            self._pending = {group for group in wanted if group not in self._slabs}
            for group in [group for group in self._slabs if group not in wanted]:
                self._slabs.pop(group).close()
        # np.unique imports it when it is first called. In the thread, a data loader that forks
        # meanwhile would leave its workers a lock of the import that nobody opens.
        importlib.import_module("numpy.ma")
        self._thread = threading.Thread(target=self._work, args=(wanted,), daemon=True)
        self._thread.start()

    def wait(self, groups: Sequence[int]) -> None:
        """Until the slabs of groups that are being read ahead are there or cannot be made.

        Not for long where other processes hold the room that they need. Warns (FallbackWarning) of
        what could not be made.
        """
        with self._state:
            self._state.wait_for(lambda: self._crowded or not self._pending.intersection(groups))
            problems, self._problems = self._problems, []
        for problem in problems:
            warnings.warn(problem, FallbackWarning, stacklevel=2)

    def close(self) -> None:
        """Give up all slabs, also one that is being made.

        Who made slabs deletes those, too, that nobody needs any longer: a worker that was killed,
        as a data loader ends one that takes long, cannot delete what it was the last one to have.
        """
        if not self._is_owner():
            # In a forked process the parent's thread may have held the lock, and is not there.
            self._state, self._thread = threading.Condition(), None
        with self._state:
            self._wanted, self._pending = [], set()
            for slab in self._slabs.values():
                slab.close()
            self._slabs, self._asked, self._looked = {}, set(), {}
            self._layouts.clear()
            if self._lists is not None:
                self._reader.prior_lists.use(None)
                self._lists.close()
                self._lists = None
            self._state.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._is_owner():
            with contextlib.suppress(OSError, StoreError):
                shared_file.sweep(self.folder)

    def _work(self, wanted: list[int]) -> None:
        """The background thread."""
        try:
            self._follow(wanted)
        finally:
            # However it ends, nobody waits for what it does not make.
            with self._state:
                if self._wanted is wanted:
                    self._pending = set()
                    self._state.notify_all()

    def _follow(self, wanted: list[int]) -> None:
        """Make one slab after the other, while they are what is wanted at present."""
        files: list[int | None] = [*wanted]
        if (
            self._manifest.prior_size
            and self._lists is None
            and self._layouts.lists_fit(self.slab_bytes)
        ):
            files.insert(0, None)
        for group in files:
            if group in self._slabs:
                continue
            blocks = (
                self._manifest.num_blocks
                if group is None
                else self._layouts.blocks(group, self.slab_bytes)
            )
            shared = problem = None
            try:
                while shared is None and self._has_room(group, blocks, wanted):
                    with contextlib.suppress(NoRoomError):
                        shared = self._make_file(
                            group, blocks, functools.partial(self._go_on, group)
                        )
            except _GivenUpError:
                return
            except (CorruptError, IncompleteError):
                shared = None  # The reads of the labels that it concerns tell of it.
            except (OSError, LabelStoreError) as error:
                what = "the lists of likely classes" if group is None else f"group {group} of views"
                problem = (
                    f"{self._reader.path}: {what} cannot be read ahead ({error}); labels are read "
                    "chunk by chunk instead."
                )
            with self._state:
                current = self._wanted is wanted
                if current and problem is not None:
                    self._problems.append(problem)
                if shared is not None:
                    self._take(group, blocks, shared)
                if current or shared is not None:
                    self._pending.discard(group)
                self._state.notify_all()
                if not current:
                    return

    def _take(self, group: int | None, blocks: int, shared: SharedArrays) -> None:
        """Use what was made, unless it is no longer wanted or already there."""
        there = self._lists if group is None else self._slabs.get(group)
        if there is not None or not self._is_wanted(group):
            shared.close()
        elif group is None:
            self._adopt(shared)
        else:
            self._slabs[group] = self._slab(shared, group, blocks)

    def _is_wanted(self, group: int | None) -> bool:
        """Whether there is use at present for a slab, or for the lists."""
        wanted = self._wanted
        return bool(wanted) if group is None else group in wanted

    def _go_on(self, group: int | None) -> None:
        if not self._is_wanted(group):
            raise _GivenUpError

    def _has_room(self, group: int | None, blocks: int, wanted: list[int]) -> bool:
        """Wait until a slab fits into the bound; False where it never does, or is not wanted."""
        layout = self._layouts.layout(group, blocks)
        if not blocks or layout.nbytes > self.slab_bytes:
            return False
        patience = time.monotonic() + _PATIENCE_SECONDS
        while self._wanted is wanted:
            others = bytes_of_others(self.folder, layout)
            if others + layout.nbytes <= self.slab_bytes:
                self._crowded = False
                return True
            if time.monotonic() > patience and not self._crowded:
                with self._state:
                    self._crowded = True
                    self._state.notify_all()
            # Not in step with others who wait for the same room.
            time.sleep(_LOOK_AGAIN_SECONDS * (1 + os.getpid() % 8 / 8))
        return False

    def _make_file(
        self, group: int | None, blocks: int, go_on: Callable[[], None] = lambda: None
    ) -> SharedArrays:
        """As ``SlabMaker.make``, here and within the bound."""
        return self._maker.make(self.folder, group, blocks, self.slab_bytes, go_on)

    def _slab(self, shared: SharedArrays, group: int, blocks: int) -> Slab:
        views = self._manifest.group_slice(group)
        return Slab(shared, views, self._layouts.images(blocks), self._decoder)


def _put(out: Codes, part: Codes, rows: Int64Array, count: int) -> None:
    """Place codes of some of ``count`` entries."""
    for name, codes in part.items():
        if name not in out:
            out[name] = np.empty((count, *codes.shape[1:]), codes.dtype)
        out[name][rows] = codes
