"""Requests to servers of objects, by obstore, from a pool of threads that survives a fork."""

from __future__ import annotations

import contextlib
import io
import os
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

from labelstore.errors import CorruptError, NotFoundError, StoreError, UsageError, require_packages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


__all__ = ["RETRY_SECONDS", "THREADS", "Requests", "Tag", "Threads", "client_line"]

T = TypeVar("T")

RETRY_SECONDS = 60
"""How long a request is tried again, at most, before it is an error."""

THREADS = 48
"""Requests that are under way at once: what hides the time that each takes to be answered."""

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


class Requests:
    """Single requests by obstore; errors are those of ``labelstore.storage.objects.Objects``."""

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
                f"{self._where} cannot be opened ({client_line(error)}): correct the URL, or the "
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
                raise FileNotFoundError(client_line(error)) from error
            raise StoreError(
                f"{where}: the request failed, its retries included ({client_line(error)}): "
                "check the network and the service's address, then run the same command again."
            ) from error

    @contextlib.contextmanager
    def _conditional(self) -> Iterator[None]:
        """What a server says of a condition, in Python's own errors."""
        known = self._obstore.exceptions
        try:
            yield
        except (known.AlreadyExistsError, known.PreconditionError) as error:
            raise FileExistsError(client_line(error)) from error
        except (known.NotSupportedError, NotImplementedError) as error:
            raise io.UnsupportedOperation(client_line(error)) from error
        except known.BaseError as error:
            if "status code: 501" not in str(error):
                raise
            raise io.UnsupportedOperation(client_line(error)) from error

    def _denied(self, where: str, error: Exception) -> NotFoundError:
        mend = _CREDENTIALS.get(self._scheme, _CREDENTIALS["https"])
        return NotFoundError(f"{where}: access is denied ({client_line(error)}): {mend}.")


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


def client_line(error: Exception) -> str:
    """The first line of an error of obstore, without what is for its developers."""
    text = " ".join(str(error).split("Debug source:")[0].split()) or type(error).__name__
    return text if len(text) <= 240 else f"{text[:237]}..."


Tag = dict[str, str]
"""The tag and version by which a server knows an object."""
