"""A generator that is run ahead of its reader, in a thread, within a bound; and how far the
producer runs ahead of a teacher."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

__all__ = ["PACES", "BackgroundIterator", "Pace", "ahead"]

T = TypeVar("T")


@dataclass(frozen=True)
class Pace:
    """How the producer keeps step with a teacher."""

    staged: int
    """Batches of pixels that wait for the teacher; with 0 both take turns."""
    under_way: int
    """Batches whose results are not waited for before the next one begins."""
    run_views: Mapping[str, int]
    """Views that are cut in one go, by where they are resized: enough to outweigh the hand-over,
    few enough to keep workers evenly busy."""
    lists_beside: bool
    """Whether a thread of its own fits images' lists of classes, so that the next batch is not
    kept waiting."""


PACES = {
    # Side by side pixels and teacher would slow each other down by more than they gain, for each
    # pass of a network is as slow as the slowest of its cores; and it needs the cores itself.
    "cpu": Pace(0, 0, {"workers": 4, "device": 4}, lists_beside=False),
    "cuda": Pace(2, 2, {"workers": 32, "device": 512}, lists_beside=True),
    "mps": Pace(2, 1, {"workers": 32, "device": 512}, lists_beside=False),
}
"""By the teacher's device."""

_END = object()
_POLL_SECONDS = 0.1


class BackgroundIterator(Generic[T]):
    """What ``ahead`` gives: an iterator that knows how long its reader waited.

    Attributes:
        waited: seconds that the reader has waited so far.
    """

    def __init__(self, items: Generator[T, None, None], depth: int) -> None:
        self.waited = 0.0
        self._items = items
        self._inline = depth == 0
        self._queue: queue.Queue[object] = queue.Queue(depth)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="labelstore-ahead", daemon=True)
        if not self._inline:
            self._thread.start()

    def __iter__(self) -> Iterator[T]:
        while True:
            started = time.perf_counter()
            item = next(self._items, _END) if self._inline else self._queue.get()
            self.waited += time.perf_counter() - started
            if item is _END:
                if self._error is not None:
                    raise self._error
                return
            yield item  # type: ignore[misc]

    def close(self) -> None:
        """Stop running ahead and wait for the thread to end."""
        self._stop.set()
        if self._inline:
            self._items.close()
        else:
            self._thread.join()

    def _run(self) -> None:
        try:
            # Closed here, so that what a generator holds is given back before ``close`` returns.
            with contextlib.closing(self._items) as items:
                for item in items:
                    if not self._put(item):
                        return
        except BaseException as error:  # raised again in the reader
            self._error = error
        self._put(_END)

    def _put(self, item: object) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False


@contextlib.contextmanager
def ahead(items: Generator[T, None, None], depth: int) -> Iterator[BackgroundIterator[T]]:
    """Run a generator in a thread, at most ``depth`` items ahead of the reader.

    What it raises is raised in the reader, after the items before it. On leaving, it is closed.
    With a ``depth`` of 0 there is no thread: items are made as they are asked for.
    """
    running = BackgroundIterator(items, depth)
    try:
        yield running
    finally:
        running.close()
