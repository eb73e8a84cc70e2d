"""Threads: in which requests wait, which survive a fork; and for what NumPy and compressors do."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from labelstore.launch import own_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["THREADS", "Threads", "cores", "on_all_cores"]

T = TypeVar("T")
Item = TypeVar("Item")

THREADS = 48
"""Requests that are under way at once: what hides the time that each takes to be answered."""


class Threads:
    """A pool of threads that is made when it is first used, and anew in a forked process."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Start a call in a thread."""
        if self._pool is None or self._process != os.getpid():
            self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="labelstore")
            self._process = os.getpid()
        return self._pool.submit(call)


_MOST_CORES = 8
"""What one process's work is shared by, at most."""

_TURNS = 4
"""Runs of items that each core is given, so that none waits long for the last."""


def cores() -> int:
    """How many threads, or forks, share this process's work: one a core that it may use, up to
    eight.

    A process that another one has started to share its own (a data loader's worker, a fork of
    ``Processes``) works alone.
    """
    if multiprocessing.parent_process() is not None:
        return 1
    return min(own_cores(None), _MOST_CORES)


def on_all_cores(call: Callable[[Item], T], items: Sequence[Item]) -> list[T]:
    """What ``call`` gives for each item, in order, several at a time.

    For calls most of whose time is without the interpreter's lock. The threads end here, so that
    none is there when a process forks. Of several errors the first item's is raised.
    """
    count = min(cores(), len(items))
    if count < 2:
        return [call(item) for item in items]
    # A thread is given several in a row: to be handed one takes as long as a small chunk's
    # compression.
    size = -(-len(items) // (count * _TURNS))
    runs = [items[start : start + size] for start in range(0, len(items), size)]
    with ThreadPoolExecutor(count, thread_name_prefix="labelstore") as pool:
        run_results = pool.map(lambda run: [call(item) for item in run], runs)
        return [result for results in run_results for result in results]
