"""The zip that ``torch.save`` writes: records that are not compressed, in one folder.

Read here and not by ``zipfile``, which takes half of the time of reading a file of FKD's (it makes
objects of all that a zip may have); and so that nothing is let in that torch does not write.
"""

from __future__ import annotations

import struct
import zlib

__all__ = ["TorchZip"]

_END = struct.Struct("<4s4H2LH")
_ENTRY = struct.Struct("<4s6xH4xL2L3H8xL")
"""Of what a directory's entry says: signature, method, checksum, sizes packed and plain, lengths of
name, extra field and remark, place."""
_LOCAL = struct.Struct("<4s22x2H")
"""Of what stands before a record: signature, lengths of name and extra field."""
_WIDE = 0xFFFFFFFF
"""Stands for a number that has its place in a 64-bit record, which label files have no need of."""


class TorchZip:
    """The records of a file of ``torch.save``, by their names below its one folder.

    Args:
        data: the file, whole.

    Raises:
        ValueError: it is no such file, cut off, or of more than 4 GB.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._entries: dict[str, tuple[int, int, int]] = {}
        place = len(data) - _END.size
        # Without a comment, as torch writes it.
        if place < 0 or data[place : place + 4] != b"PK\5\6":
            raise ValueError("it is no whole zip: its directory is missing")
        _, _, _, count, total, size, start, comment = _END.unpack_from(data, place)
        # torch writes the records of zips of 64 bits in front, too; the plain ones are as they say.
        if count != total or comment or _WIDE in (size, start) or start + size > place:
            raise ValueError("its directory is none")
        place = start
        for _ in range(count):
            entry = _ENTRY.unpack_from(data, place)
            signature, method, checksum, packed, plain, name_bytes, extra, remark, at = entry
            if signature != b"PK\1\2":
                raise ValueError("its directory is damaged")
            place += _ENTRY.size
            name = data[place : place + name_bytes].decode("utf-8").partition("/")[2]
            place += name_bytes + extra + remark
            if name in self._entries:
                raise ValueError(f"it has two records {name[:40]!r}")
            if method or packed != plain or _WIDE in (plain, at):
                raise ValueError(f"its record {name[:40]!r} is compressed")
            self._entries[name] = (at, plain, checksum)
        if "data.pkl" not in self._entries:
            raise ValueError("it has no data.pkl")
        if "byteorder" in self._entries and self.read("byteorder") != b"little":
            raise ValueError("it was saved on a big-endian machine")

    def read(self, name: str) -> bytes:
        """A record's bytes; ValueError where there is none, or its checksum is another."""
        entry = self._entries.get(name)
        if entry is None:
            raise ValueError(f"it has no record {name[:40]!r}")
        at, size, checksum = entry
        signature, name_bytes, extra = _LOCAL.unpack_from(self._data, at)
        if signature != b"PK\3\4":
            raise ValueError(f"its record {name!r} does not begin where it should")
        start = at + _LOCAL.size + name_bytes + extra
        data = self._data[start : start + size]
        if len(data) != size or zlib.crc32(data) != checksum:
            raise ValueError(f"its record {name!r} is not what its checksum says")
        return data
