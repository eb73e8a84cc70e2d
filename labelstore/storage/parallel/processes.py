"""Processes for what Python does under the interpreter's lock, which threads would wait for."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import warnings
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from labelstore.errors import StoreError
from labelstore.storage.parallel.threads import cores

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

__all__ = ["Processes", "process_count"]

T = TypeVar("T")
Item = TypeVar("Item")


def process_count(workers: int | None, items: int) -> int:
    """How many processes make so many items: ``workers``, or where that is None ``cores``, since
    each takes the memory of what it makes; one where there is nothing to share, or no forks
    (Windows, macOS)."""
    if not sys.platform.startswith("linux"):
        return 1
    return max(1, min(cores() if workers is None else workers, items))


class Processes(Generic[Item, T]):
    """Forks of this process, in each of which ``call`` is called for one item at a time.

    They have all that this process had when they were made, and end with it, also when it is
    killed. Make them before threads are started and locks are taken: a fork has the second and not
    the first.
    """

    def __init__(self, count: int, call: Callable[[Item], T]) -> None:
        self._idle: queue.SimpleQueue[tuple[Connection, Any]] = queue.SimpleQueue()
        self._all: list[tuple[Connection, Any]] = []
        context = multiprocessing.get_context("fork")
        with contextlib.ExitStack() as stack:
            stack.callback(self.close)
            for _ in range(count):
                ours, theirs = context.Pipe()
                others = [connection for connection, _ in self._all]
                process = context.Process(
                    target=_serve, args=(theirs, [*others, ours], call), daemon=True
                )
                with warnings.catch_warnings():
                    # Of threads in this process, whose locks a fork might wait for: those of a
                    # caller, which are none of those that ``call`` uses.
                    warnings.simplefilter("ignore", DeprecationWarning)
                    process.start()
                theirs.close()
                self._all.append((ours, process))
                self._idle.put(self._all[-1])
            stack.pop_all()

    def __call__(self, item: Item) -> T:
        """What ``call`` gives for an item; may be called by several threads, which wait for a
        process that is idle. What it raises is raised here.

        Raises:
            StoreError: the process has ended, as when it is killed for want of memory.
        """
        connection, process = self._idle.get()
        try:
            connection.send(item)
            result, error = connection.recv()
        except (EOFError, ConnectionError):
            process.join()
            # Whoever waits for a process finds this one, and the same error.
            self._idle.put((connection, process))
            raise StoreError(
                f"a process that worked for this one has ended (exit code {process.exitcode}; -9: "
                "killed, mostly for want of memory): run the same command again, with fewer "
                "workers; what was committed is kept."
            ) from None
        self._idle.put((connection, process))
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def close(self) -> None:
        """End them, whatever they are at."""
        for connection, _ in self._all:
            connection.close()
        for _, process in self._all:
            process.terminate()
            process.join()


def _serve(connection: Connection, others: list[Connection], call: Callable[[Any], Any]) -> None:
    """Answer until the other end is closed, by hand or by the system when its process is gone."""
    for other in others:
        other.close()
    # Ctrl-C goes to all processes of a terminal; it is the parent's to say what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            item = connection.recv()
            answer: tuple[Any, Exception | None]
            try:
                answer = call(item), None
            except Exception as error:
                answer = None, error
            connection.send(answer)
    os._exit(0)
