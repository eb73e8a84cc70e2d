"""Requests to a server over obstore, whose errors become those of
``labelstore.storage.remote.objects.Objects``.

What is read is taken in by ``labelstore.storage.remote.transfers``: it is asked for again there,
too. Obstore itself repeats what is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import math
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from labelstore.errors import (
    CorruptError,
    FormatError,
    LabelStoreError,
    NotFoundError,
    StoreError,
    UsageError,
    one_line,
    require_packages,
)
from labelstore.storage.location import place_of
from labelstore.storage.remote import transfers
from labelstore.storage.remote.hub import HubPlace
from labelstore.storage.untrusted import DOCUMENT_BYTES, json_document

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence


__all__ = ["Requests", "Tag", "first_line", "pinned"]

Tag = dict[str, str]
"""The tag and version by which a server knows an object."""

_RETRIES = 8

_LISTINGS = 32
"""Folders that are listed at once."""

_TIMES = {"connect_timeout": "10s", "timeout": "1day"}
"""Of making a connection, and of a request with all of its answer, over plain HTTP: progress is
what counts. For buckets the environment says (AWS_TIMEOUT ...), and what had come by then is kept.
"""

_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, or AWS_SKIP_SIGNATURE=true "
    "for a public bucket",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SKIP_SIGNATURE=true for a public bucket",
    "hf": "set HF_TOKEN to a token that may read this data set",
    "https": "ask its owner for a URL that may be read",
}


_MACHINE_CREDENTIALS = ("latest/api/token", "latest/meta-data", "computeMetadata")
"""Parts of the addresses at which a machine in a cloud is given credentials."""


class Requests:
    """Single requests by obstore; errors are those of ``objects.Objects``."""

    def __init__(self, url: str, address: str | None = None) -> None:
        """``address``: where on the hub a URL's requests go instead of to its files."""
        self._where = url
        self._address = address
        self._scheme = urlsplit(url).scheme
        self._obstore = _import()
        self._reading = self._open(retries=0)

    @functools.cached_property
    def _writing(self) -> Any:
        return self._open(_RETRIES)

    def _open(self, retries: int) -> Any:
        seconds = timedelta(seconds=transfers.RETRY_SECONDS)
        repeated = {"max_retries": retries, "retry_timeout": seconds}
        url, make = self._where, self._obstore.store
        try:
            if self._scheme in ("s3", "gs"):
                # Client options that are given here would hide those of the environment.
                return make.from_url(url, retry_config=repeated)
            options: dict[str, Any] = dict(_TIMES)
            if self._scheme == "hf":
                url = self._address or _store_on_hub(url).files
                if token := os.environ.get("HF_TOKEN"):
                    options["default_headers"] = {"Authorization": f"Bearer {token}"}
            if urlsplit(url).scheme == "http":
                options["allow_http"] = True
            return make.HTTPStore.from_url(url, client_options=options, retry_config=repeated)
        except LabelStoreError:
            raise
        except (ValueError, self._obstore.exceptions.BaseError) as error:
            raise UsageError(
                f"{self._where} cannot be opened ({first_line(error)}): correct the URL, or the "
                "settings in the environment."
            ) from error

    def get(self, name: str, limit: int | None = None) -> bytes:
        """A whole object; CorruptError when it has more than ``limit`` bytes."""

        def check(meta: Any) -> None:
            if limit is not None and int(meta["size"]) > limit:
                raise CorruptError(
                    f"{self._where}/{name} has {int(meta['size']):,} bytes, expected at most "
                    f"{limit:,}: it was exchanged; restore it from a copy."
                )

        with self._explained(name):
            return transfers.run(self._get(name, None, check)).data

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Ranges of an object, (start, length) each; less where it ends before."""

        async def together() -> list[bytes]:
            parts = [self._get(name, (start, start + length)) for start, length in ranges]
            return [body.data for body in await asyncio.gather(*parts)]

        with self._explained(name):
            return transfers.run(together())

    def get_suffix(self, name: str, length: int) -> tuple[bytes, int]:
        """The last bytes of an object, and its size."""
        with self._explained(name):
            body = transfers.run(self._get(name, {"suffix": length}))
            return body.data, int(body.meta["size"])

    def _get(
        self, name: str, part: Any, check: Callable[[Any], None] = lambda meta: None
    ) -> Coroutine[Any, Any, transfers.Body]:
        async def request(options: Any) -> Any:
            try:
                return await self._obstore.get_async(self._reading, name, options=options)
            except self._obstore.exceptions.PreconditionError as error:
                raise transfers.ReplacedError(first_line(error)) from error

        return self._steady(name).get(request, part, check)

    def _steady(self, name: str) -> transfers.Steady:
        return transfers.Steady(self._place(name), self._is_passing)

    def _is_passing(self, error: Exception) -> bool:
        """Whether a failed request may be answered when it is made again."""
        known = self._obstore.exceptions
        text = str(error)
        is_refusal = "status code: 4" in text and not any(
            f"status code: {code}" in text for code in (408, 425, 429)
        )
        return isinstance(error, known.GenericError) and not is_refusal

    def _place(self, name: str) -> str:
        return f"{self._where}/{name}" if name else self._where

    def put(self, name: str, data: bytes, condition: str | Tag = "overwrite") -> None:
        """Write an object, in one request: it is there whole or not at all.

        Args:
            condition: "create" for one that is not there, a tag for one that is to be replaced;
                else FileExistsError, or io.UnsupportedOperation where the server knows none.
        """
        with self._explained(name), self._conditional():
            self._obstore.put(self._writing, name, data, mode=condition, use_multipart=False)

    def tag(self, name: str) -> Tag:
        """The tag and version of an object."""
        head = self._head(name)
        return {part: head[part] for part in ("e_tag", "version") if head.get(part)}

    def delete(self, name: str) -> None:
        """Delete an object; whether it was there is not told."""
        with self._explained(name):
            self._obstore.delete(self._writing, name)

    def list(self, prefix: str) -> dict[str, int]:
        """Bytes of all objects below a prefix."""
        with self._explained(prefix):
            return transfers.run(self._list(prefix))

    async def _list(self, prefix: str) -> dict[str, int]:
        steady = self._steady(prefix)

        async def pages() -> dict[str, int]:
            sizes: dict[str, int] = {}
            async for page in self._obstore.list(self._reading, prefix or None):
                sizes |= {entry["path"]: int(entry["size"]) for entry in page}
                steady.progress(math.inf)
            return sizes

        return await steady.call(pages)

    def list_folders(self, prefix: str) -> dict[str, int]:
        """As ``list``, with the folders of the first level that has several listed together.

        A server tells a thousand names in an answer, and the next thousand only when it is asked
        with the last of these; of a folder a class that is a request after the other for minutes.
        """

        async def level(below: str) -> Any:
            async def request() -> Any:
                return await self._obstore.list_with_delimiter_async(self._reading, below or None)

            return await self._steady(below).call(request)

        async def below(folder: str, turn: asyncio.Semaphore) -> dict[str, int]:
            async with turn:
                return await self._list(folder)

        async def all_folders() -> dict[str, int]:
            sizes: dict[str, int] = {}
            folders = [prefix]
            while len(folders) == 1:
                listing = await level(folders[0])
                sizes |= {entry["path"]: int(entry["size"]) for entry in listing["objects"]}
                folders = listing["common_prefixes"]
            turn = asyncio.Semaphore(_LISTINGS)
            for part in await asyncio.gather(*(below(folder, turn) for folder in folders)):
                sizes |= part
            return sizes

        with self._explained(prefix):
            return transfers.run(all_folders())

    def size(self, name: str) -> int:
        """Bytes of an object."""
        return int(self._head(name)["size"])

    def _head(self, name: str) -> Any:
        async def head() -> Any:
            return await self._obstore.head_async(self._reading, name)

        with self._explained(name):
            return transfers.run(self._steady(name).call(head))

    @contextlib.contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Turn obstore's errors into those of the contract."""
        known = self._obstore.exceptions
        where = self._place(name)
        try:
            yield
        except (FileNotFoundError, FileExistsError, io.UnsupportedOperation, LabelStoreError):
            raise
        except (known.PermissionDeniedError, known.UnauthenticatedError) as error:
            raise self._denied(where, error) from error
        except Exception as error:
            if any(part in str(error) for part in _MACHINE_CREDENTIALS):
                # No others were found.
                raise self._denied(where, error) from error
            if "status code: 404" in str(error):
                raise FileNotFoundError(first_line(error)) from error
            raise StoreError(
                f"{where}: the request failed, its retries included ({first_line(error)}): check "
                "the network and the service's address, then run the same command again."
            ) from error

    @contextlib.contextmanager
    def _conditional(self) -> Iterator[None]:
        """What a server says of a condition, in Python's own errors."""
        known = self._obstore.exceptions
        try:
            yield
        except (known.AlreadyExistsError, known.PreconditionError) as error:
            raise FileExistsError(first_line(error)) from error
        except (known.NotSupportedError, NotImplementedError) as error:
            raise io.UnsupportedOperation(first_line(error)) from error
        except known.BaseError as error:
            if "status code: 501" not in str(error):
                raise
            raise io.UnsupportedOperation(first_line(error)) from error

    def _denied(self, where: str, error: Exception) -> NotFoundError:
        mend = _CREDENTIALS.get(self._scheme, _CREDENTIALS["https"])
        return NotFoundError(f"{where}: access is denied ({first_line(error)}): {mend}.")


def _import() -> Any:
    require_packages("reading and writing behind URLs", "obstore", extra="remote")
    import obstore
    import obstore.store

    return obstore


def _store_on_hub(url: str) -> HubPlace:
    place = HubPlace.of(url)
    if not place.path:
        raise UsageError(
            f"{url} names no store on the hub, expected hf://datasets/OWNER/REPO/PATH, with "
            "REPO@REVISION for another revision than main."
        )
    return place


def pinned(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """A store's place as it is now and stays: of one on the hub the URL with its commit.

    Anything else is returned as it is, and so is a URL of a hub that does not tell its commits, as
    a mirror of files may be.

    Raises:
        UsageError: a URL that names no store. NotFoundError: access is denied. StoreError: the hub
        does not answer. MissingPackageError: obstore is not installed.
    """
    url = place_of(path)
    if not isinstance(url, str) or urlsplit(url).scheme != "hf":
        return path
    place = _store_on_hub(url)
    if place.is_pinned:
        return url
    try:
        document = json_document(Requests(url, place.api).get("", DOCUMENT_BYTES), place.api)
    except (FileNotFoundError, FormatError, CorruptError):
        return url
    commit = document.get("sha") if isinstance(document, dict) else None
    # What comes is anything: a commit alone is taken for one.
    at_commit = place.at(commit) if isinstance(commit, str) else place
    return at_commit.url if at_commit.is_pinned else url


def first_line(error: Exception) -> str:
    """The first line of an error of obstore, without what is for its developers."""
    return one_line(error, str(error).split("Debug source:")[0])
