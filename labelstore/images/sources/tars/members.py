"""The members of a tar archive, header by header.

Python's ``tarfile`` ends in silence at a header that is damaged, cut off, or behind the end of a
first archive. Here the headers have to chain from the file's first byte to its last one: what lies
between two members, or behind the last of them, is a header or zeros, or an error. What has no
checksum cannot be told: the data, and what an extended header says, such as a path. A damaged path
is another name, and the member is not lost.

Sources: POSIX.1-2017, "pax", ustar and extended headers; GNU tar's manual, "Basic Tar Format" and
"Storing Sparse Files".
"""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING, Literal, NamedTuple

from labelstore.images.sources.tars.plain_members import plain_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Member", "TarDamageError", "compression_of", "members"]

_BLOCK = 512
_RECORD = 20 * _BLOCK
"""What archives are padded to, unless their writer was told otherwise."""

_MOST_EXTENSION = 2**24
"""Bytes of a long name or of extended headers; writers make some hundreds."""

_WORTH, _PAUSE = 8, 64
"""Plain members that pay for looking for more, and how many headers are read where there are fewer.
"""

_MOST_DIGITS = 20
"""Of a size in extended headers."""

Kind = Literal["file", "hard link", "symbolic link", "sparse", "part", "special"]

_KINDS: dict[bytes, Kind] = {
    tarfile.LNKTYPE: "hard link",
    tarfile.SYMTYPE: "symbolic link",
    tarfile.GNUTYPE_SPARSE: "sparse",
    b"M": "part",
    tarfile.DIRTYPE: "special",
    tarfile.CHRTYPE: "special",
    tarfile.BLKTYPE: "special",
    tarfile.FIFOTYPE: "special",
}
"""Kind by the header's type; all others are files."""

_WITHOUT_DATA = {"hard link", "symbolic link", "special"}

_MAGICS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x04\x22\x4d\x18": "lz4",
}


class Member(NamedTuple):
    """A member of an archive."""

    name: str
    """Bytes that are not UTF-8 stand as surrogates."""
    offset: int
    """Of its first byte of data."""
    size: int
    """Bytes of data in the archive."""
    kind: Kind
    """``part``: of a file that began on another volume; ``special``: folders and devices."""
    target: str
    """What a link names; else empty."""
    data: bytes | None = None
    """Of a small ``.cls`` file, which was read along with its header; None where it was not."""


class TarDamageError(Exception):
    """An archive whose headers do not chain to its end.

    Attributes:
        offset: the byte from which on it cannot be read.
        reason: what is the matter there.
    """

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(offset, reason)
        self.offset = offset
        self.reason = reason


def compression_of(data: bytes) -> str | None:
    """What a file was compressed with, by its first bytes (6 are enough); None for nothing."""
    return next((name for magic, name in _MAGICS.items() if data.startswith(magic)), None)


def members(read: Callable[[int, int], bytes], size: int) -> Iterator[Member]:
    """All members of an archive, in order; archives that were joined are read on, as ``tar -i``.

    A hole of zeros over whole members looks like the end of one archive before the next. So only
    what a writer leaves at an end counts as one: two blocks of zeros, filled up to a whole record
    of 20 blocks (POSIX's default, which GNU tar and Python keep to).

    Args:
        read: (offset, length) -> bytes, fewer only where the file ends. OSErrors pass through.
        size: of the file in bytes.

    Raises:
        TarDamageError: between members, or behind the last one, lies something else than headers
            and the ends of archives; or no zeros end the archive, as where it was cut between two
            members; or its size is no multiple of 512, as where a part was taken out of it.
    """
    place = begin = end = 0
    ended = False
    common: dict[str, str] = {}
    own: dict[str, str] = {}
    pause = 0
    while place < size:
        # Most archives are plain from one end to the other; what is not is read header by header.
        if place == end and not (own or common) and pause == 0:
            run, place = plain_run(read, place, size)
            end = place
            for name, data, length, content in run:
                yield Member(name, data, length, "file", "", content)
            pause = 0 if len(run) >= _WORTH else _PAUSE
            if run:
                continue
        pause = max(pause - 1, 0)
        block = read(place, _BLOCK)
        if not block:
            raise TarDamageError(place, "the file was cut while it was read")
        if not block.strip(b"\0"):
            if own:
                raise TarDamageError(place, "an extended header is followed by no member")
            # A stump of zeros is no block.
            place, ended = place + _BLOCK, ended or len(block) == _BLOCK
            continue
        header = _header(block, place)
        if place > end:
            if place != begin - (begin - end - 2 * _BLOCK) // _RECORD * _RECORD:
                raise TarDamageError(
                    end,
                    f"{place - end} bytes of zeros stand before the next header, which is no end "
                    "of an archive in records of 20 blocks",
                )
            begin = place
        data = place + _BLOCK
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            text = _extension(read, data, header.size, size).partition(b"\0")[0]
            name = "path" if header.type == tarfile.GNUTYPE_LONGNAME else "linkpath"
            own[name] = _text(text)
        elif header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            own |= _records(_extension(read, data, header.size, size), data)
        elif header.type == tarfile.XGLTYPE:
            common |= _records(_extension(read, data, header.size, size), data)
        else:
            if header.type == tarfile.GNUTYPE_SPARSE:
                data = _behind_sparse_map(read, block, data)
            member = _member(header, data, common | own, place)
            if member.offset + member.size > size:
                raise TarDamageError(
                    place, f"{member.name!r} has {member.size} bytes and the file was cut in them"
                )
            yield member
            own, header.size = {}, member.size
        place = end = data + -(-header.size // _BLOCK) * _BLOCK
        ended = False
    if not ended:
        raise TarDamageError(
            size, "the file ends without zero blocks, so it was cut between members"
        )
    if size % _BLOCK:
        raise TarDamageError(size, "the file ends within a block, so bytes of it are gone")


def _header(block: bytes, place: int) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        reason = "a header was cut" if len(block) < _BLOCK else f"no header is there ({error})"
        raise TarDamageError(place, reason) from error
    if header.size < 0:
        raise TarDamageError(place, f"a header says {header.size} bytes")
    # tarfile tells it of files alone; links and folders have no data, whatever the header says.
    if _KINDS.get(header.type) in _WITHOUT_DATA:
        header.size = 0
    return header


def _member(header: tarfile.TarInfo, data: int, records: dict[str, str], place: int) -> Member:
    """A member, as its header and the extended headers before it say."""
    kind = _KINDS.get(header.type, "file")
    length = header.size
    if "size" in records and kind not in _WITHOUT_DATA:
        if not records["size"].isdecimal() or len(records["size"]) > _MOST_DIGITS:
            raise TarDamageError(place, f"an extended header says {records['size']!r:.40} bytes")
        length = int(records["size"])
    if kind == "file" and any(name.startswith("GNU.sparse.") for name in records):
        kind = "sparse"
    name = records.get("GNU.sparse.name") or records.get("path") or header.name
    target = records.get("linkpath") or header.linkname if "link" in kind else ""
    return Member(name.rstrip("/"), data, length, kind, target)


def _extension(read: Callable[[int, int], bytes], place: int, length: int, size: int) -> bytes:
    if length > _MOST_EXTENSION:
        raise TarDamageError(place, f"an extended header of {length} bytes")
    data = read(place, length)
    if len(data) < length or place + length > size:
        raise TarDamageError(place, "the file was cut in an extended header")
    return data


def _records(data: bytes, place: int) -> dict[str, str]:
    """The records ``length keyword=value`` of extended headers."""
    records = {}
    start = 0
    while start < len(data) and data[start] != 0:
        digits, blank, _ = data[start : start + 12].partition(b" ")
        length = int(digits) if blank and digits.isdigit() else 0
        record = data[start : start + length]
        keyword, equals, value = record[len(digits) + 1 :].partition(b"=")
        if not equals or not record.endswith(b"\n"):
            raise TarDamageError(place + start, "an extended header is damaged")
        records[_text(keyword)] = _text(value[:-1])
        start += length
    return records


def _behind_sparse_map(read: Callable[[int, int], bytes], block: bytes, place: int) -> int:
    """Where the data of a sparse file of GNU's old format begin."""
    is_extended = block[482]
    while is_extended:
        block = read(place, _BLOCK)
        if len(block) < _BLOCK:
            raise TarDamageError(place, "the file was cut in the map of a sparse file")
        is_extended = block[504]
        place += _BLOCK
    return place


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
