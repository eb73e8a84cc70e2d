"""Every photo of a source looked at once, on all cores, in the source's order."""

from __future__ import annotations

import itertools
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from labelstore.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

__all__ = ["every_photo"]

T = TypeVar("T")

_RUN = 8
"""Photos that a thread is given at once: what handing over costs is shared by them, and a thread
is not far ahead of the others in a file that is read fast in its order alone."""


def every_photo(
    numbers: Iterable[int], look: Callable[[int], T], workers: int
) -> Iterator[tuple[int, T]]:
    """What ``look`` makes of each number, in order; few are held at a time.

    Pillow decodes outside of Python's lock, so that threads are enough.

    Args:
        numbers: of photos in a source. look: called in one of ``workers`` threads.

    Raises:
        SourceError: there is no memory for it. What ``look`` raises, in its place.
    """

    def looked(run: list[int]) -> list[tuple[int, T]]:
        return [(number, look(number)) for number in run]

    left = iter(numbers)
    runs = iter(lambda: list(itertools.islice(left, _RUN)), [])
    waiting: deque[Future[list[tuple[int, T]]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="labelstore") as pool:
        try:
            for run in runs:
                waiting.append(pool.submit(looked, run))
                if len(waiting) > 2 * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except MemoryError as error:
            raise SourceError(
                "there is no memory to read and decode photos: use fewer workers.",
                arguments=("workers",),
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
