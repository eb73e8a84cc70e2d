"""Where a store lies: a local folder, or a URL; and what a backend needs of either.

An object is a file of a store: bytes under a name such as ``labels/classes/c/0/0/0``, relative to
the store, with ``/`` between its parts.
"""

from __future__ import annotations

import re
import urllib.parse
import urllib.request
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from labelstore.errors import UsageError

if TYPE_CHECKING:
    import os

__all__ = ["REMOTE_SCHEMES", "is_remote", "place_of", "same_place", "suffix_of"]

T = TypeVar("T")


REMOTE_SCHEMES = ("s3", "gs", "https", "http", "hf")
"""What URLs of stores begin with; ``file`` is the folder that it names."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def place_of(path: str | os.PathLike[str]) -> Path | str:
    """A local path as ``Path``, a remote store's URL as ``str`` without a slash at its end.

    Raises:
        UsageError: a URL of a kind that this library does not read, or a file on another machine.
    """
    match = _URL.match(path) if isinstance(path, str) else None
    if match is None:
        return Path(path)
    url, scheme = str(path), match[1].lower()
    if scheme == "file":
        parts = urllib.parse.urlsplit(url)
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise UsageError(
                f"{url} names the machine {parts.netloc!r}, expected file:// and an absolute path, "
                f"as {Path(parts.netloc + parts.path).absolute().as_uri()}, or a plain path."
            )
        return Path(urllib.request.url2pathname(parts.path))
    if scheme not in REMOTE_SCHEMES:
        raise UsageError(
            f"{url} begins with {scheme}://, expected one of "
            f"{', '.join(f'{name}://' for name in (*REMOTE_SCHEMES, 'file'))} or a local path."
        )
    return f"{scheme}{url[len(scheme) :]}".rstrip("/")


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a remote store's URL."""
    return isinstance(place_of(path), str)


def suffix_of(place: Path | str) -> str:
    """What follows the last dot of a store's name, dot included; ``""`` without one."""
    name = place.as_posix() if isinstance(place, Path) else urllib.parse.urlsplit(place).path
    return PurePosixPath(name).suffix


def same_place(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether two paths or URLs name the same store."""
    places = place_of(one), place_of(other)
    first, second = (place.resolve() if isinstance(place, Path) else place for place in places)
    return first == second
