"""Objects behind a URL: S3, Google Cloud Storage, HTTP and the Hugging Face hub, over obstore.

What may pass (server errors, connections that break, also in mid-body) is retried for about
``transfers.RETRY_SECONDS``; credentials come from the environment, as its documentation says.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

from labelstore.errors import NotFoundError, StoreError, UsageError
from labelstore.storage.parallel.fork_helper import Helper
from labelstore.storage.parallel.threads import THREADS, Threads
from labelstore.storage.remote import transfers
from labelstore.storage.remote.requests import Requests, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from labelstore.storage.remote.requests import Tag

__all__ = ["HIDDEN", "Objects", "RemoteObjects"]

T = TypeVar("T")

HIDDEN = ".writers/"
"""Below this lie objects that tell of a store's writers and are no part of it."""

_used: set[int] = set()
"""The processes that have used obstore: this one, or those that it was forked from."""

_helper_lock = threading.Lock()


class Objects(Protocol):
    """The objects of one remote store.

    Where an object is not there, FileNotFoundError; any other failure, after the retries that its
    library makes, is a StoreError, or a NotFoundError where access is denied, that names the
    object.
    """

    where: str
    """The store's URL, for messages."""

    def check_writable(self) -> None:
        """UsageError for a store that can only be read."""

    def get(self, name: str, limit: int | None = None) -> bytes:
        """A whole object; CorruptError when it has more than ``limit`` bytes."""

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """``length`` bytes of an object from byte ``start``; StoreError when there are fewer."""

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """As ``get_range``, of several (start, length) of an object, under way together."""

    def get_suffix(self, name: str, length: int) -> tuple[bytes, int]:
        """The last bytes of an object, up to ``length``, and the size of the whole."""

    def put(self, name: str, data: bytes) -> None:
        """Write an object: whole under its name before this returns, or not at all."""

    def put_new(self, name: str, data: bytes) -> bool:
        """As ``put``, where no object has the name; False where another one has it."""

    def replace(self, name: str, data: bytes, tag: Tag) -> bool:
        """As ``put``, in place of the object with this tag; False where it is another one now."""

    def tag(self, name: str) -> Tag:
        """What tells an object from any other that had its name."""

    def delete(self, name: str) -> None:
        """Delete an object if it is there."""

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """Bytes of the store's objects: of all, or of those ``names`` where none can be listed."""

    def together(self, calls: Iterable[Callable[[], T]]) -> Iterator[T]:
        """What calls return, in order, several being under way at once; what a call raises."""


class RemoteObjects:
    """The objects below a URL; see ``Objects`` for the methods' contracts.

    It may be used after a fork, too.

    Raises:
        UsageError: the URL is none. MissingPackageError: obstore is not installed.
    """

    def __init__(self, url: str) -> None:
        self.where = url
        self._scheme = urlsplit(url).scheme
        self._requests = Requests(url)
        self._helper: Helper | None = None
        self._threads = Threads(THREADS)
        self.conditional = True
        """Whether the server writes objects on conditions; see ``leases``."""
        self.permit: Callable[[], None] = _always
        """Called before an object of the store is changed; it raises where that must not be."""

    def _do(self, verb: str, *arguments: Any) -> Any:
        if not _used or os.getpid() in _used:
            _used.add(os.getpid())
            return getattr(self._requests, verb)(*arguments)
        # obstore's threads are not there after a fork, and waiting for them would never end.
        with _helper_lock:
            if self._helper is None or self._helper.process_id != os.getpid():
                self._helper = Helper(self.where)
            helper = self._helper
        return helper.ask(verb, *arguments)

    def get(self, name: str, limit: int | None = None) -> bytes:
        return bytes(self._do("get", name, limit))

    def get_range(self, name: str, start: int, length: int) -> bytes:
        return self.get_ranges(name, [(start, length)])[0]

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        if not ranges:
            return []
        pieces: list[bytes] = self._do("get_ranges", name, list(ranges))
        for (start, length), data in zip(ranges, pieces, strict=True):
            if len(data) != length:
                raise StoreError(
                    f"{self.where}/{name}: {len(data)} bytes came from byte {start} on, expected "
                    f"{length}: the object is shorter than it was written; restore it."
                )
        return pieces

    def get_suffix(self, name: str, length: int) -> tuple[bytes, int]:
        data, size = self._do("get_suffix", name, length)
        return bytes(data), int(size)

    def put(self, name: str, data: bytes) -> None:
        self._check_change(name)
        try:
            self._do("put", name, data)
        except FileNotFoundError as error:
            raise self._unwritable(name, error) from error

    def _unwritable(self, name: str, error: Exception) -> NotFoundError:
        return NotFoundError(
            f"{self.where}/{name} cannot be written ({first_line(error)}): make the bucket, or "
            "correct the URL."
        )

    def put_new(self, name: str, data: bytes) -> bool:
        if self.conditional:
            return self._put_if(name, data, "create")
        if self._size(name) is not None:
            return self.get(name) == data
        self.put(name, data)
        return True

    def replace(self, name: str, data: bytes, tag: Tag) -> bool:
        if self.conditional:
            return self._put_if(name, data, tag)
        self.put(name, data)
        return True

    def _put_if(self, name: str, data: bytes, condition: str | Tag) -> bool:
        """Write on a condition; True too where that had been done, but the answer was lost."""
        self._check_change(name)
        started = time.monotonic()
        for pause in itertools.accumulate(itertools.repeat(0.1), lambda last, _: min(2 * last, 5)):
            try:
                self._do("put", name, data, condition)
            except FileExistsError:
                with contextlib.suppress(FileNotFoundError):
                    return self.get(name) == data
                if condition != "create":
                    return False
            except FileNotFoundError as error:
                raise self._unwritable(name, error) from error
            except StoreError:
                # Such requests are not repeated by obstore, for it cannot tell what became of them.
                if time.monotonic() - started > transfers.RETRY_SECONDS:
                    raise
            else:
                return True
            time.sleep(pause)
        return False

    def put_part(self, name: str, data: bytes | None, ready: Callable[[], None]) -> None:
        """Write an object of an uncommitted block, or delete it, in place of what was left there.

        Args:
            data: None for an object that is to be gone.
            ready: called before each change; it raises where this writer may not make it.

        Raises:
            StoreError: another writer changed the object meanwhile.
        """
        ready()
        if data is None:
            self.delete(name)
            return
        # Only what is seen here is written over: a writer that slept for long must not replace
        # what another one has put there since.
        while not self.put_new(name, data):
            ready()
            try:
                tag = self.tag(name)
            except FileNotFoundError:
                continue
            ready()
            if not self.replace(name, data, tag):
                raise StoreError(
                    f"{self.where}/{name} is being written by another process, too: let one of "
                    "them end, then run the same command again."
                )
            return

    def tag(self, name: str) -> Tag:
        tag: Tag = self._do("tag", name)
        return tag

    def below(self, prefix: str) -> list[str]:
        """Names of the objects below a prefix that ends in ``/``."""
        return sorted(self._do("list", prefix))

    def delete(self, name: str) -> None:
        self._check_change(name)
        with contextlib.suppress(FileNotFoundError):
            self._do("delete", name)

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        return self._listed("list") if self._scheme in ("s3", "gs") else self.sizes_of(names)

    def sizes_of_many(self) -> dict[str, int]:
        """As ``sizes``, of a bucket with many objects in folders: these are listed together."""
        return self._listed("list_folders")

    def _listed(self, verb: str) -> dict[str, int]:
        try:
            sizes = self._do(verb, "")
        except FileNotFoundError as error:
            raise NotFoundError(
                f"{self.where} cannot be listed ({first_line(error)}): make the bucket, or "
                "correct the URL."
            ) from error
        return {name: size for name, size in sizes.items() if not name.startswith(HIDDEN)}

    def sizes_of(self, names: Iterable[str]) -> dict[str, int]:
        """Bytes of those of some objects that are there."""
        asked = list(names)
        counts = self.together(functools.partial(self._size, name) for name in asked)
        return {name: count for name, count in zip(asked, counts, strict=True) if count is not None}

    def _size(self, name: str) -> int | None:
        try:
            return int(self._do("size", name))
        except FileNotFoundError:
            return None

    def get_first(self, name: str, limit: int) -> bytes:
        """The object that every store has; NotFoundError where it is not there."""
        try:
            return self.get(name, limit)
        except FileNotFoundError as error:
            raise NotFoundError(
                f"there is no store at {self.where}: check the URL, its bucket or host included, "
                "and of an S3-compatible service the address (AWS_ENDPOINT_URL)."
            ) from error

    def clear(self, first: str, opening: bytes) -> None:
        """Delete all objects; until none is left, ``first`` is there and holds ``opening``."""
        names = set(self.sizes([]))
        if not names:
            return
        self.put(first, opening)
        calls = [functools.partial(self.delete, name) for name in names - {first}]
        collections.deque(self.together(calls), maxlen=0)
        self.delete(first)

    def together(self, calls: Iterable[Callable[[], T]]) -> Iterator[T]:
        waiting: collections.deque[Future[T]] = collections.deque()
        try:
            for call in calls:
                waiting.append(self._threads.submit(call))
                if len(waiting) >= 2 * THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _check_change(self, name: str) -> None:
        self.check_writable()
        if not name.startswith(HIDDEN):
            self.permit()

    def check_writable(self) -> None:
        """UsageError for a URL that can only be read."""
        if self._scheme not in ("s3", "gs"):
            raise UsageError(
                f"{self.where} can be read and not written: write to a local path, s3:// or gs://."
            )


def _always() -> None:
    """Nothing is in the way."""
