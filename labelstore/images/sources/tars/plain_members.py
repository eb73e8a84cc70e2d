"""Runs of plain members of a tar archive, whose headers are checked many at a time.

Plain: a file with a name of at most 100 bytes, all numbers octal, and before it at most an extended
header that tells a time alone, as WebDataset's writer has them. A run ends before anything else,
and before whatever is not quite right: ``members`` then reads that header by itself and judges it.
"""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MOST_CLASS_BYTES", "PlainMember", "plain_run"]

MOST_CLASS_BYTES = 2**12
"""Of a ``.cls`` member."""

_BLOCK = 512
_MOST_HEADERS = 2048
"""Of a run: 1 MB of them."""

_NUMERIC = np.zeros(256, dtype=bool)
_NUMERIC[list(b"\0 01234567")] = True

_OCTAL_PLACES = 8 ** np.arange(5, -1, -1)


class PlainMember(NamedTuple):
    """A plain file of an archive."""

    name: str
    offset: int
    size: int
    data: bytes | None
    """Of a small ``.cls`` file; None of others."""


def plain_run(
    read: Callable[[int, int], bytes], place: int, size: int
) -> tuple[list[PlainMember], int]:
    """The plain members from a place on, as far as they stand one behind the other.

    Args:
        read: (offset, length) -> bytes, fewer only where the file ends.
        place: where a header is expected.
        size: of the file in bytes.

    Returns:
        the members, none where the first one is not plain; the place behind them.
    """
    entries: list[PlainMember] = []
    places = [place]
    headers: list[bytes] = []
    owners: list[int] = []
    while place < size and len(headers) < _MOST_HEADERS:
        own = [read(place, _BLOCK)]
        data = place + _BLOCK
        if own[0][156:157] == tarfile.XHDTYPE:
            if not _is_time(own[0], read(data, _BLOCK)):
                break
            own.append(read(data + _BLOCK, _BLOCK))
            data += 2 * _BLOCK
        block = own[-1]
        length = _size_of(block)
        # Of the fields that a long name goes on in, the first byte tells that it is empty.
        if length is None or block[156:157] != tarfile.REGTYPE or block[345]:
            break
        name = block[:100].partition(b"\0")[0]
        content = None
        if name.endswith(b".cls") and length <= MOST_CLASS_BYTES:
            content = read(data, length)
        place = data + -(-length // _BLOCK) * _BLOCK
        if data + length > size or (content is not None and len(content) < length):
            break
        headers += own
        owners += [len(entries)] * len(own)
        text = name.decode("utf-8", "surrogateescape").rstrip("/")
        entries.append(PlainMember(text, data, length, content))
        places.append(place)
    good = _valid(headers)
    count = owners[good] if good < len(owners) else len(entries)
    return entries[:count], places[count]


def _size_of(block: bytes) -> int | None:
    """The bytes that a header says; None where it says so otherwise, or was cut."""
    if len(block) < _BLOCK or block[135] not in b"\0 ":
        return None
    try:
        length = int(block[124:135], 8)
    except ValueError:
        return None
    return length if length >= 0 else None


def _is_time(header: bytes, data: bytes) -> bool:
    """Whether an extended header's data are one block with the record ``length mtime=seconds``."""
    length, blank = _size_of(header), data.find(b" ")
    return (
        0 < blank < 4
        and data[:blank] == str(length).encode()
        and data.startswith(b"mtime=", blank + 1)
        and data.find(b"\n") + 1 == length
    )


def _valid(headers: list[bytes]) -> int:
    """How many headers, from the first one on, have their checksum and octal numbers."""
    if not headers:
        return 0
    blocks = np.frombuffer(b"".join(headers), dtype=np.uint8).reshape(-1, _BLOCK)
    digits = blocks[:, 148:154].astype(np.int64) - 48
    checksums = digits @ _OCTAL_PLACES
    # The field itself counts as eight blanks.
    sums = blocks.sum(axis=1, dtype=np.int64) - blocks[:, 148:156].sum(axis=1, dtype=np.int64)
    good = (
        (sums + 8 * 32 == checksums)
        & ((digits >= 0) & (digits < 8)).all(axis=1)
        & (blocks[:, 154] == 0)
        & _NUMERIC[blocks[:, 100:148]].all(axis=1)
        & _NUMERIC[blocks[:, 329:345]].all(axis=1)
    )
    return len(headers) if good.all() else int(np.argmin(good))
