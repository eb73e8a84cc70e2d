"""The gate for what somebody else may have made: files are opened, and bytes parsed, through here.

A store from a stranger must be safe to open. So nothing is opened that could wait for ever or lies
outside the store, nothing is taken into memory that its size on disk does not account for, and
whatever a parser raises is a CorruptError that names the file.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from labelstore.errors import (
    CorruptError,
    FormatError,
    LabelStoreError,
    NotFoundError,
    StoreError,
    one_line,
)
from labelstore.storage import local_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = [
    "DOCUMENT_BYTES",
    "check_expansion",
    "folder_in",
    "json_document",
    "json_of",
    "open_descriptor",
    "open_file",
    "open_inside",
    "opener_in",
    "parsed",
    "read_file",
    "read_manifest",
    "read_opened",
    "read_whole",
    "require_file",
]

DOCUMENT_BYTES = 32 * 2**20
"""Bytes of a JSON document, at most: a manifest names each class once."""

_PLAIN_BYTES = 64 * 2**20
"""Bytes that compressed data may always expand to."""

_EXPANSION = 1000
"""Beyond that, how many bytes may come of one: labels that are nearly all alike reach a hundred."""

_OPEN = os.O_RDONLY
"""How files are opened; without waiting for a pipe."""
for _flag in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
    _OPEN |= getattr(os, _flag, 0)

_FOLDER = _OPEN | getattr(os, "O_DIRECTORY", 0)
_BY_FOLDER = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
"""How folders are opened, and whether files can be opened by their names in one."""

_INTEGERS = 2**64
"""JSON integers are smaller than this: none that means anything here is larger."""

_MEND = "restore it from a copy"


@contextmanager
def parsed(where: Path | str, mend: str = _MEND) -> Iterator[None]:
    """Turn what parsers raise into a CorruptError; ``where`` names the file, ``mend`` the remedy.

    Raises:
        CorruptError: the content is no such thing. StoreError: the system refused to read it, or
            has no memory for it.
    """
    try:
        yield
    except (LabelStoreError, ImportError):
        # A library that this machine lacks is no damage.
        raise
    except MemoryError as error:
        raise StoreError(
            f"{where} cannot be read: there is not enough memory ({one_line(error)}): free some, "
            "then try again."
        ) from error
    except Exception as error:
        refused = local_files.refusal(where, error)
        if refused is not None:
            raise refused from error
        raise CorruptError(
            f"{where} cannot be read ({one_line(error)}): it is missing, changed or damaged; "
            f"{mend}."
        ) from error


def open_descriptor(path: Path | str) -> int:
    """Open a regular file, wherever it lies, for reading; links are followed.

    Raises:
        OSError: the system refuses, or what is there is no file: opening a pipe would wait for
            ever, and a device may never end.
    """
    return _opened(path)[0]


def _opened(path: Path | str, folder: int | None = None) -> tuple[int, int]:
    """As ``open_descriptor``, and how many bytes the file has; of a name in an open folder, an
    OSError where it is a link."""
    if folder is None:
        descriptor = os.open(path, _OPEN)
    else:
        descriptor = os.open(path, _OPEN | os.O_NOFOLLOW, dir_fd=folder)
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            kind = _kind_of(state.st_mode)
            raise OSError(errno.EINVAL, f"it is no file, but {kind}", os.fspath(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, state.st_size


def read_whole(path: Path | str, limit: int | None = None) -> tuple[bytes, int]:
    """The bytes of a regular file, wherever it lies, and how many it said that it has.

    Where the numbers differ it is being written, or the disk fails. Without a file object, which
    takes as long as reading a small file does.

    Raises:
        OSError: as ``open_descriptor``. ValueError: there are more than ``limit`` bytes.
    """
    descriptor, size = _opened(path)
    try:
        if limit is not None and size > limit:
            raise ValueError(f"it has {size:,} bytes, expected at most {limit:,}")
        return _read(descriptor, size), size
    finally:
        os.close(descriptor)


def _read(descriptor: int, size: int) -> bytes:
    """What a file holds that said to have so many bytes; less where it was cut."""
    # One more, so that a file that grows meanwhile is noticed and not read to its end.
    data = os.read(descriptor, size + 1)
    while len(data) < size:
        more = os.read(descriptor, size - len(data))
        if not more:
            break
        data += more
    return data


def _kind_of(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFDIR: "a folder"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def open_inside(path: Path | str, root: Path | str) -> tuple[int, int]:
    """Open a file of the store at ``root`` for reading: its descriptor, and its size in bytes.

    Raises:
        FileNotFoundError: it is not there. CorruptError: it is no file (opening a pipe would wait
            for ever), or a link that leaves the store. OSError: the system refuses.
    """
    try:
        descriptor, size = _opened(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        if local_files.refusal(path, error) is not None:
            raise
        raise CorruptError(
            f"{path} cannot be opened ({error.strerror}): it was exchanged; {_MEND}."
        ) from error
    try:
        _require_inside(_real_path(descriptor, path), path, root)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, size


@contextmanager
def folder_in(folder: str, root: str) -> Iterator[int | None]:
    """The descriptor of a folder of the store at ``root``, of which files can then be opened by
    their names in it; None where it is not there, or where the system cannot do that.

    Raises:
        CorruptError: the folder is a link that leaves the store.
    """
    try:
        descriptor = os.open(folder, _FOLDER) if _BY_FOLDER else None
    except OSError:
        descriptor = None
    if descriptor is None:
        yield None
        return
    try:
        _require_inside(_real_path(descriptor, folder), folder, root)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def opener_in(folder: str, root: str) -> Iterator[Callable[[str], tuple[int, int]]]:
    """What opens files of a folder of the store at ``root`` by their names in it, or in a folder
    there, as ``open_inside`` does. Where the folder lies is looked at once, which is half of what
    opening a small file takes.

    Raises:
        CorruptError: the folder is a link that leaves the store.
    """
    with folder_in(folder, root) as descriptor:

        def opened(name: str) -> tuple[int, int]:
            if descriptor is None:
                return open_inside(f"{folder}/{name}", root)
            try:
                inner, _, last = name.rpartition("/")
                if not inner:
                    return _opened(name, descriptor)
                inner_descriptor = os.open(inner, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
                try:
                    return _opened(last, inner_descriptor)
                finally:
                    os.close(inner_descriptor)
            except FileNotFoundError:
                raise
            except OSError:
                # A link, which has to be followed, or what is to be explained.
                return open_inside(f"{folder}/{name}", root)

        yield opened


def open_file(path: Path | str, root: Path | str) -> io.FileIO:
    """As ``open_inside``, a file object, unbuffered."""
    return io.FileIO(open_inside(path, root)[0])


def require_file(path: Path | str, root: Path | str) -> None:
    """As ``open_inside``, for a library that opens files itself."""
    os.close(open_inside(path, root)[0])


def read_file(path: Path | str, root: Path | str, limit: int) -> bytes:
    """The bytes of a file of the store at ``root``.

    Raises:
        As ``open_inside``; CorruptError also where there are more than ``limit`` bytes.
    """
    return read_opened(*open_inside(path, root), path, limit)


def read_opened(descriptor: int, size: int, path: Path | str, limit: int) -> bytes:
    """The bytes of a file that ``open_inside`` has opened, which is closed.

    Raises:
        CorruptError: there are more than ``limit`` bytes. OSError: the system refuses.
    """
    try:
        if size > limit:
            raise CorruptError(
                f"{path} has {size:,} bytes, expected at most {limit:,}: it was exchanged; {_MEND}."
            )
        return _read(descriptor, size)
    finally:
        os.close(descriptor)


def read_manifest(root: Path, name: str) -> bytes:
    """The bytes of the file with a store's manifest.

    Raises:
        NotFoundError: nothing is at ``root``. FormatError: it is no store. CorruptError: as
        ``read_file``.
    """
    if not root.exists():
        raise NotFoundError(f"there is no store at {root}: check the path.")
    try:
        if root.is_dir():
            return read_file(root / name, root, DOCUMENT_BYTES)
    except FileNotFoundError:
        pass
    raise FormatError(
        f"{root} is not a labelstore store (it has no {name}): name a folder that labelstore made."
    )


def _real_path(descriptor: int, path: Path | str) -> str:
    """Where an open file lies, links resolved."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return os.path.realpath(path)


_roots: dict[str, tuple[str, ...]] = {}
"""Folders in which the files of a store may lie, by its path; looked up again before an error."""


def _require_inside(real: str, path: Path | str, root: Path | str) -> None:
    name = os.fspath(root)
    if real.startswith(_roots.get(name, ("\0",))):
        return
    place = os.path.realpath(name)
    allowed = [place + os.sep]
    head, separator, _ = place.partition(f"{os.sep}snapshots{os.sep}")
    if separator:
        # The cache of the Hugging Face hub: a snapshot is a folder of links to blobs beside it.
        allowed.append(os.path.join(head, "blobs") + os.sep)
    _roots[name] = tuple(allowed)
    if not real.startswith(_roots[name]):
        raise CorruptError(
            f"{path} is a link to {real}, outside the store: put the file itself in its place."
        )


def json_document(data: bytes, where: Path | str) -> Any:
    """A JSON document: UTF-8, numbers that are finite, no name twice in an object.

    Raises:
        CorruptError: it is not that.
    """
    with parsed(where):
        return json_of(data)


def json_of(data: bytes) -> Any:
    """``json_document``, of which whoever calls tells where it is; ValueError or what else."""
    if len(data) > DOCUMENT_BYTES:
        raise ValueError(f"{len(data):,} bytes, expected at most {DOCUMENT_BYTES:,}")
    text = data.decode("utf-8")
    document = json.loads(
        text,
        object_pairs_hook=_members,
        parse_int=_integer,
        parse_float=_number,
        parse_constant=_number,
    )
    if "\\u" in text:
        # An escape may name half a character, which no digest and no terminal takes.
        json.dumps(document, ensure_ascii=False).encode()
    return document


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object names a member twice")
    return members


def _integer(text: str) -> int:
    if len(text) > 20 or abs(int(text)) >= _INTEGERS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:20]}")
    return number


def check_expansion(decoded: int, stored: int) -> None:
    """ValueError where data of ``stored`` bytes may not be what ``decoded`` bytes come of."""
    if decoded > max(_PLAIN_BYTES, _EXPANSION * stored):
        raise ValueError(f"{stored:,} bytes are to be {decoded:,} when decompressed")
