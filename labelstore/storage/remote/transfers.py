"""Answers of servers, taken in as they come: what stands still is given up, what is slow is not.

A client's timeouts bound a silence, or a whole request: neither tells a server that sends a byte a
second from a large object on a slow link. So the bytes are counted as they come.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from labelstore.errors import StoreError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["RETRY_SECONDS", "Body", "ReplacedError", "Steady", "patience", "run"]

T = TypeVar("T")

RETRY_SECONDS = 60
"""How long a request is tried again after its last progress, at most, before it is an error."""

RATE = 1024
"""Bytes a second that come of a server that does not stand still."""

_VARIABLE, _PATIENCE = "LABELSTORE_REMOTE_TIMEOUT", 8.0
"""Where the environment says it, how many seconds are waited for progress."""

_RETRIES, _LONGEST_PAUSE = 8, 15.0
"""After the last progress; and seconds between two of them."""


def patience() -> float:
    """Seconds in which a server makes progress, or is given up.

    Raises:
        UsageError: the environment says something else than a number above 0.
    """
    text = os.environ.get(_VARIABLE, "") or str(_PATIENCE)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 86_400:
        raise UsageError(
            f"{_VARIABLE} is {text!r}, expected seconds above 0: correct it, or take it away."
        )
    return seconds


class ReplacedError(Exception):
    """An object was replaced while it came."""


class Body(NamedTuple):
    """An answer."""

    data: bytes
    meta: Any
    """What the server says of the object: ``size``, ``e_tag`` ..."""


class Steady:
    """One request with its repetitions, as long as it makes progress; used in ``run``.

    Waiting for an answer, and for ``RATE`` times ``patience()`` more bytes of it, takes no longer
    than ``patience()``, repetitions included; pauses between those are not counted, for then the
    server has answered.

    Args:
        where: what errors call the object.
        is_passing: whether an error may be gone when the request is made again.
    """

    def __init__(self, where: str, is_passing: Callable[[Exception], bool]) -> None:
        self._where, self._is_passing = where, is_passing
        self._seconds = patience()
        self._came = 0.0
        self._failures = 0
        self._limit: asyncio.Timeout
        self._failed_since: float | None = None

    async def get(
        self, request: Callable[[Any], Any], part: Any, check: Callable[[Any], None]
    ) -> Body:
        """An object, or a part of it; what came before a connection broke is not asked for again.

        Args:
            request: begins a request with options (a range, a tag to match), of obstore; raises
                ReplacedError where another object has the name by now.
            part: the range, None for all.
            check: told what the server says of the object, before its bytes come.
        """
        pieces: list[bytes] = []
        first = stop = 0
        tag: str | None = None

        async def attempt() -> Body:
            nonlocal first, stop, tag
            options = {} if part is None else {"range": part}
            if pieces:
                options = {"range": (first + sum(map(len, pieces)), stop), "if_match": tag}
            try:
                result = await request(options)
            except ReplacedError:
                pieces.clear()
                raise
            check(result.meta)
            if not pieces:
                (first, stop), tag = result.range, result.meta.get("e_tag")
            try:
                async for piece in result.stream(min_chunk_size=1):
                    pieces.append(piece)
                    self.progress(len(piece))
            except Exception:
                if tag is None:
                    # Nothing would tell whether the rest is of the same object.
                    pieces.clear()
                raise
            return Body(b"".join(pieces), result.meta)

        return await self.call(attempt)

    async def call(self, attempt: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What a call returns that makes a request, made again where its failure may pass.

        Raises:
            StoreError: it stands still. What the call raises, where that does not pass.
        """
        try:
            async with asyncio.timeout(self._seconds) as self._limit:
                while True:
                    try:
                        return await attempt()
                    except Exception as error:
                        pause = self._pause(error)
                        if pause is None:
                            raise
                    self._postpone(pause)
                    await asyncio.sleep(pause)
        except TimeoutError as error:
            if not self._limit.expired():
                raise
            raise StoreError(
                f"{self._where}: the server stands still (in {self._seconds:g} seconds less than "
                f"{self._seconds * RATE:,.0f} bytes came): try again, or where it is slower than "
                f"that, set {_VARIABLE} to more seconds."
            ) from error

    def progress(self, count: float) -> None:
        """So many bytes came."""
        self._came += count
        if self._came >= self._seconds * RATE:
            self._came, self._failures = 0.0, 0
            self._failed_since = None
            self._limit.reschedule(_now() + self._seconds)

    def _postpone(self, seconds: float) -> None:
        until = self._limit.when()
        if until is not None:
            self._limit.reschedule(until + seconds)

    def _pause(self, error: Exception) -> float | None:
        """Seconds until the next attempt; None where there is none."""
        if self._failed_since is None:
            self._failed_since = _now()
        pause = min(0.1 * 2.0**self._failures, _LONGEST_PAUSE)
        self._failures += 1
        is_passing = isinstance(error, ReplacedError) or self._is_passing(error)
        if self._failures > _RETRIES or not is_passing:
            return None
        return pause if _now() + pause <= self._failed_since + RETRY_SECONDS else None


def _now() -> float:
    return asyncio.get_running_loop().time()


_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_process = 0


def run(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns or raises, run in a thread that all requests of a process share."""
    global _loop, _process
    with _lock:
        if _loop is None or _process != os.getpid():
            _loop, _process = asyncio.new_event_loop(), os.getpid()
            threading.Thread(
                target=_loop.run_forever, name="labelstore-transfers", daemon=True
            ).start()
        loop = _loop
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
