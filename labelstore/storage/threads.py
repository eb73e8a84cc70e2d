"""Threads in which requests wait, which survive a fork."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["THREADS", "Threads"]

T = TypeVar("T")

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
