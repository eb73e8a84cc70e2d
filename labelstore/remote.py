"""Objects behind a URL: S3, Google Cloud Storage, HTTP and the Hugging Face hub, over obstore.

What obstore retries (server errors, connections that break, also in mid-body) is retried for about
``RETRY_SECONDS``; credentials come from the environment, as its documentation says.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import io
import itertools
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

from labelstore.errors import (
    CorruptError,
    NotFoundError,
    StoreError,
    UsageError,
    require_packages,
)
from labelstore.forked import Helper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from labelstore.objects import Tag

__all__ = ["HIDDEN", "RETRY_SECONDS", "THREADS", "RemoteObjects", "Requests", "Threads"]

T = TypeVar("T")

RETRY_SECONDS = 60
"""How long a request is tried again, at most, before it is an error."""

THREADS = 48
"""Requests that are under way at once: what hides the time that each takes to be answered."""

HIDDEN = ".writers/"
"""Below this lie objects that tell of a store's writers and are no part of it."""

_RETRIES = 8

_TIMES = {"connect_timeout": "10s", "timeout": "60s"}
"""Of making a connection, and of a request with all of its answer, over plain HTTP; for buckets the
environment says (AWS_TIMEOUT ...)."""

_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, or AWS_SKIP_SIGNATURE=true "
    "for a public bucket",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SKIP_SIGNATURE=true for a public bucket",
    "hf": "set HF_TOKEN to a token that may read this data set",
    "https": "ask its owner for a URL that may be read",
}


_MACHINE_CREDENTIALS = ("latest/api/token", "latest/meta-data", "computeMetadata")
"""Parts of the addresses at which a machine in a cloud is given credentials."""

_used: set[int] = set()
"""The processes that have used obstore: this one, or those that it was forked from."""

_helper_lock = threading.Lock()


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


class RemoteObjects:
    """The objects below a URL; see ``labelstore.objects.Objects`` for the methods' contracts.

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
        """Whether the server writes objects on conditions; see ``labelstore.leases``."""
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
        found: list[bytes] = self._do("get_ranges", name, list(ranges))
        for (start, length), data in zip(ranges, found, strict=True):
            if len(data) != length:
                raise StoreError(
                    f"{self.where}/{name}: {len(data)} bytes came from byte {start} on, expected "
                    f"{length}: the object is shorter than it was written; restore it."
                )
        return found

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
            f"{self.where}/{name} cannot be written ({_line(error)}): make the bucket, or correct "
            "the URL."
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
                if time.monotonic() - started > RETRY_SECONDS:
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
        found: Tag = self._do("tag", name)
        return found

    def below(self, prefix: str) -> list[str]:
        """Names of the objects below a prefix that ends in ``/``."""
        return sorted(self._do("list", prefix))

    def delete(self, name: str) -> None:
        self._check_change(name)
        with contextlib.suppress(FileNotFoundError):
            self._do("delete", name)

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        if self._scheme in ("s3", "gs"):
            try:
                found = self._do("list", "")
                return {name: size for name, size in found.items() if not name.startswith(HIDDEN)}
            except FileNotFoundError as error:
                raise NotFoundError(
                    f"{self.where} cannot be listed ({_line(error)}): make the bucket, or correct "
                    "the URL."
                ) from error
        return self.sizes_of(names)

    def sizes_of(self, names: Iterable[str]) -> dict[str, int]:
        """Bytes of those of some objects that are there."""
        wanted = list(names)
        counts = self.together(functools.partial(self._size, name) for name in wanted)
        return {
            name: count for name, count in zip(wanted, counts, strict=True) if count is not None
        }

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


class Requests:
    """Single requests by obstore; errors are those of ``labelstore.objects.Objects``."""

    def __init__(self, url: str) -> None:
        self._where = url
        self._scheme = urlsplit(url).scheme
        self._obstore = _import()
        self._store = self._open()

    def _open(self) -> Any:
        retries = {"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)}
        url, make = self._where, self._obstore.store
        try:
            if self._scheme in ("s3", "gs"):
                # Client options that are given here would hide those of the environment.
                return make.from_url(url, retry_config=retries)
            options: dict[str, Any] = dict(_TIMES)
            if self._scheme == "hf":
                url = _hub_address(url)
                if token := os.environ.get("HF_TOKEN"):
                    options["default_headers"] = {"Authorization": f"Bearer {token}"}
            if urlsplit(url).scheme == "http":
                options["allow_http"] = True
            return make.HTTPStore.from_url(url, client_options=options, retry_config=retries)
        except (ValueError, self._obstore.exceptions.BaseError) as error:
            raise UsageError(
                f"{self._where} cannot be opened ({_line(error)}): correct the URL, or the "
                "settings in the environment."
            ) from error

    def get(self, name: str, limit: int | None = None) -> bytes:
        """A whole object; CorruptError when it has more than ``limit`` bytes."""
        with self._explained(name):
            found = self._obstore.get(self._store, name)
            size = int(found.meta["size"])
            if limit is not None and size > limit:
                raise CorruptError(
                    f"{self._where}/{name} has {size:,} bytes, expected at most {limit:,}: it was "
                    "exchanged; restore it from a copy."
                )
            return bytes(found.bytes().to_bytes())

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Ranges of an object, (start, length) each; less where it ends before."""
        starts, lengths = map(list, zip(*ranges, strict=True))
        with self._explained(name):
            if len(ranges) == 1:
                one = self._obstore.get_range(self._store, name, start=starts[0], length=lengths[0])
                return [one.to_bytes()]
            found = self._obstore.get_ranges(
                self._store, name, starts=starts, lengths=lengths, coalesce=0
            )
            return [part.to_bytes() for part in found]

    def get_suffix(self, name: str, length: int) -> tuple[bytes, int]:
        """The last bytes of an object, and its size."""
        with self._explained(name):
            options = {"range": {"suffix": length}}
            found = self._obstore.get(self._store, name, options=options)
            return bytes(found.bytes().to_bytes()), int(found.meta["size"])

    def put(self, name: str, data: bytes, condition: str | Tag = "overwrite") -> None:
        """Write an object, in one request: it is there whole or not at all.

        Args:
            condition: "create" for one that is not there, a tag for one that is to be replaced;
                else FileExistsError, or io.UnsupportedOperation where the server knows none.
        """
        with self._explained(name), self._conditional():
            self._obstore.put(self._store, name, data, mode=condition, use_multipart=False)

    def tag(self, name: str) -> Tag:
        """The tag and version of an object."""
        with self._explained(name):
            found = self._obstore.head(self._store, name)
        return {part: found[part] for part in ("e_tag", "version") if found.get(part)}

    def delete(self, name: str) -> None:
        """Delete an object; whether it was there is not told."""
        with self._explained(name):
            self._obstore.delete(self._store, name)

    def list(self, prefix: str) -> dict[str, int]:
        """Bytes of all objects below a prefix."""
        with self._explained(prefix):
            found = self._obstore.list(self._store, prefix or None).collect()
        return {entry["path"]: int(entry["size"]) for entry in found}

    def size(self, name: str) -> int:
        """Bytes of an object."""
        with self._explained(name):
            return int(self._obstore.head(self._store, name)["size"])

    @contextlib.contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Turn obstore's errors into those of the contract."""
        known = self._obstore.exceptions
        where = f"{self._where}/{name}" if name else self._where
        try:
            yield
        except (FileNotFoundError, FileExistsError, io.UnsupportedOperation, CorruptError):
            raise
        except (known.PermissionDeniedError, known.UnauthenticatedError) as error:
            raise self._denied(where, error) from error
        except Exception as error:
            if any(part in str(error) for part in _MACHINE_CREDENTIALS):
                # No others were found.
                raise self._denied(where, error) from error
            if "status code: 404" in str(error):
                raise FileNotFoundError(_line(error)) from error
            raise StoreError(
                f"{where}: the request failed, its retries included ({_line(error)}): check the "
                "network and the service's address, then run the same command again."
            ) from error

    @contextlib.contextmanager
    def _conditional(self) -> Iterator[None]:
        """What a server says of a condition, in Python's own errors."""
        known = self._obstore.exceptions
        try:
            yield
        except (known.AlreadyExistsError, known.PreconditionError) as error:
            raise FileExistsError(_line(error)) from error
        except (known.NotSupportedError, NotImplementedError) as error:
            raise io.UnsupportedOperation(_line(error)) from error
        except known.BaseError as error:
            if "status code: 501" not in str(error):
                raise
            raise io.UnsupportedOperation(_line(error)) from error

    def _denied(self, where: str, error: Exception) -> NotFoundError:
        mend = _CREDENTIALS.get(self._scheme, _CREDENTIALS["https"])
        return NotFoundError(f"{where}: access is denied ({_line(error)}): {mend}.")


def _import() -> Any:
    require_packages("reading and writing behind URLs", "obstore", extra="remote")
    import obstore
    import obstore.store

    return obstore


def _hub_address(url: str) -> str:
    """The address of the files below ``hf://datasets/OWNER/REPO[@REVISION]/PATH``."""
    parts = urlsplit(url)
    names = [part for part in parts.path.split("/") if part]
    if parts.netloc != "datasets" or len(names) < 3:
        raise UsageError(
            f"{url} names no store on the hub, expected hf://datasets/OWNER/REPO/PATH, with "
            "REPO@REVISION for another revision than main."
        )
    repository, _, revision = names[1].partition("@")
    host = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    path = "/".join(quote(name) for name in names[2:])
    return f"{host}/datasets/{names[0]}/{repository}/resolve/{quote(revision or 'main', '')}/{path}"


def _line(error: Exception) -> str:
    """The first line of an error of obstore, without what is for its developers."""
    text = " ".join(str(error).split("Debug source:")[0].split()) or type(error).__name__
    return text if len(text) <= 240 else f"{text[:237]}..."
