"""How far a long look at all labels is, where somebody watches."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["watched"]

_QUIET_SECONDS, _BETWEEN_SECONDS = 3.0, 1.0
"""Before the first word, and between two."""

Item = TypeVar("Item")


def watched(items: Iterable[Item], count: int, doing: str) -> Iterator[Item]:
    """The same items; after some seconds a line on a terminal's stderr says how far they are.

    Args:
        items: ``count`` of them, each of which takes about as long.
        count: how many.
        doing: what is done, for the line.
    """
    # Python without a console has no stderr.
    if sys.stderr is None or not sys.stderr.isatty():
        yield from items
        return
    start = time.monotonic()
    last = start + _QUIET_SECONDS - _BETWEEN_SECONDS
    line = ""
    try:
        for number, item in enumerate(items):
            now = time.monotonic()
            if number and now - last >= _BETWEEN_SECONDS:
                left = (now - start) * (count - number) / number
                text = f"{doing}: {number / count:.0%}, {_duration(left)} left"
                line, last = text.ljust(len(line)), now
                sys.stderr.write(f"\r{line}")
                sys.stderr.flush()
            yield item
    finally:
        if line:
            sys.stderr.write("\r" + " " * len(line) + "\r")
            sys.stderr.flush()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
