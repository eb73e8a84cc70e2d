"""Jobs that are told to end: SIGTERM, which Slurm, Kubernetes and torchrun send before they kill.

The block in work is finished where that takes no longer than what is left of a grace, and given up
otherwise; what was committed is kept in either case.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["GRACE_SECONDS", "StopRequest", "Terminated", "deferred", "obeying_sigterm"]

GRACE_SECONDS = 20.0
"""How long a block may go on after SIGTERM: Slurm and Kubernetes wait 30 s before they kill."""


class Terminated(KeyboardInterrupt):
    """The process was told to end, by SIGTERM."""


class StopRequest:
    """Whether a run was told to end, and how long it may still go on.

    Args:
        grace: seconds, 0 or more.
    """

    def __init__(self, grace: float = GRACE_SECONDS) -> None:
        self._grace = grace
        self._asked: float | None = None

    @property
    def asked(self) -> bool:
        """Whether the run was told to end."""
        return self._asked is not None

    def ask(self) -> None:
        """Tell the run to end."""
        self._asked = time.monotonic()

    def check(self, remaining: float) -> None:
        """Go on, if nothing was asked or there is time.

        Args:
            remaining: seconds that the work at hand still takes.

        Raises:
            Terminated: there is not.
        """
        if self._asked is not None:
            left = self._asked + self._grace - time.monotonic()
            if remaining > left or left <= 0:
                raise Terminated


_deferring: list[StopRequest] = []
"""The runs that are told rather than interrupted, the innermost last."""


@contextlib.contextmanager
def deferred(request: StopRequest) -> Iterator[None]:
    """Within it SIGTERM tells ``request``, and nothing is interrupted; a second one interrupts."""
    _deferring.append(request)
    try:
        yield
    finally:
        _deferring.remove(request)


@contextlib.contextmanager
def obeying_sigterm() -> Iterator[None]:
    """Within it SIGTERM raises ``Terminated`` in the main thread, or tells who deferred it.

    Elsewhere than in the main thread, where no signal can be handled, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def obey(_number: int, _frame: FrameType | None) -> None:
        if not _deferring or _deferring[-1].asked:
            raise Terminated
        _deferring[-1].ask()

    before = signal.signal(signal.SIGTERM, obey)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
