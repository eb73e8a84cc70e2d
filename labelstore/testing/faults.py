"""Stop a writer at every step that it takes on the file system.

``labelstore.storage.local_files``, with ``locks`` and ``swaps`` beside it, is the only module that
changes files, so its calls into the system are all the moments at which a crash can leave something
behind. ``trip`` counts them and lets the chosen one fail, or the process die just before or just
after it.
"""

from __future__ import annotations

import errno
import os
import pathlib
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from labelstore.storage import local_files, swaps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Steps", "trip"]

Fault = Literal["die-before", "die-after", "no-space"]

_CALLS: tuple[tuple[Any, str], ...] = (
    (os, "fsync"),
    (pathlib.Path, "replace"),
    (pathlib.Path, "hardlink_to"),
    (pathlib.Path, "unlink"),
    (pathlib.Path, "mkdir"),
    (pathlib.Path, "open"),
    (local_files, "delete_tree"),
    (swaps, "exchange"),
)


class Steps:
    """Counts steps."""

    def __init__(self) -> None:
        self.taken = 0
        """How many steps have been taken, the one that failed included."""


@contextmanager
def trip(at: int | None = None, fault: Fault = "die-before") -> Iterator[Steps]:
    """Let the step number ``at`` (from 1) on the file system go wrong.

    Args:
        at: None only counts.
        fault: ``die-before`` and ``die-after`` kill this process with SIGKILL; ``no-space`` raises
            the system's error of a full disk, once.
    """
    steps = Steps()
    kept = [(owner, name, getattr(owner, name)) for owner, name in _CALLS]

    def tripping(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            steps.taken += 1
            if steps.taken != at:
                return call(*args, **options)
            if fault == "no-space":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            try:
                if fault == "die-after":
                    call(*args, **options)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
            return None

        return step

    for owner, name, call in kept:
        setattr(owner, name, tripping(call))
    try:
        yield steps
    finally:
        for owner, name, call in kept:
            setattr(owner, name, call)
