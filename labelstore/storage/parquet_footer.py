"""The numbers of a Parquet file's footer, read without pyarrow's accessors.

``metadata.row_group(g)``, ``.column(c)`` and ``.write_metadata_file()`` of pyarrow end the process
where a footer contradicts itself: an exception of C++ meets a declaration that lets none through.
Reading the data raises as it should. So what has to be known of a stranger's file before its data
are read is taken from the footer's bytes: Thrift's compact protocol, of which a footer uses a few
types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["ColumnNumbers", "OpenFile", "RowGroupNumbers", "footer_of", "row_groups"]

_MAGIC, _END = b"PAR1", 8
"""The mark at a file's end, and the bytes that it takes with the footer's length before it."""

_DEPTH = 12
"""Structures in structures, at most: a footer has five."""

_SHORT, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 3, 7, 8, 9, 10, 12
_INTEGERS = (4, 5, 6)
"""Types of fields; those up to 2 are truth values, which have no bytes of their own."""
_LONG_LIST = 15

_ROW_GROUPS, _COLUMNS, _NUM_ROWS, _META_DATA = 4, 1, 3, 3
_PATH, _NUM_VALUES, _UNCOMPRESSED, _COMPRESSED, _STATISTICS = 3, 5, 6, 7, 12
_NULLS = 3
"""Numbers of fields: of FileMetaData, RowGroup, ColumnChunk, ColumnMetaData and Statistics."""

_Wanted = dict[int, Any]

_COLUMN: _Wanted = {field: {} for field in (_PATH, _NUM_VALUES, _UNCOMPRESSED, _COMPRESSED)}
_COLUMN[_STATISTICS] = {_NULLS: {}}
_FOOTER: _Wanted = {_ROW_GROUPS: {_COLUMNS: {_META_DATA: _COLUMN}, _NUM_ROWS: {}}}
"""The fields that are read, structure by structure; all others are passed over."""


@dataclass(frozen=True)
class ColumnNumbers:
    """A column of a row group."""

    name: str
    """Of the top-level column."""
    values: int
    compressed: int
    uncompressed: int
    """Bytes."""
    path: str
    """Of the leaf, such as ``image.bytes``; ``name`` is its first part."""
    nulls: int
    """As its statistics tell; 0 where they do not."""


@dataclass(frozen=True)
class RowGroupNumbers:
    """A row group."""

    rows: int
    columns: tuple[ColumnNumbers, ...]


class OpenFile(NamedTuple):
    """A file that is read."""

    file: pq.ParquetFile
    size: int
    """Bytes."""
    footer: bytes

    @property
    def groups(self) -> list[RowGroupNumbers]:
        """Its row groups, in order; ValueError where the footer does not tell."""
        return row_groups(self.footer)


def footer_of(source: pa.NativeFile) -> bytes:
    """The footer of an open file, which is left at its beginning.

    Raises:
        ValueError: it has none. OSError: it cannot be read.
    """
    size = source.size()
    source.seek(max(size - _END, 0))
    end = source.read(_END)
    length = int.from_bytes(end[:4], "little")
    if end[4:] != _MAGIC or length > size - _END:
        raise ValueError("it does not end as Parquet files do")
    source.seek(size - _END - length)
    footer: bytes = source.read(length)
    source.seek(0)
    return footer


def row_groups(footer: bytes) -> list[RowGroupNumbers]:
    """The row groups of a footer, in order.

    Raises:
        ValueError: it lacks a number, or is no footer.
    """
    try:
        fields, _ = _struct(footer, 0, _FOOTER)
        return [_row_group(group) for group in fields.get(_ROW_GROUPS, [])]
    except (IndexError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"its footer lacks what every footer has ({error!r})") from error


def _row_group(group: dict[int, Any]) -> RowGroupNumbers:
    parts = [chunk[_META_DATA] for chunk in group[_COLUMNS]]
    columns = tuple(
        ColumnNumbers(
            name=_text(part[_PATH][:1]),
            values=int(part[_NUM_VALUES]),
            compressed=int(part[_COMPRESSED]),
            uncompressed=int(part[_UNCOMPRESSED]),
            path=_text(part[_PATH]),
            nulls=int(part.get(_STATISTICS, {}).get(_NULLS, 0)),
        )
        for part in parts
    )
    numbers = [n for part in columns for n in (part.values, part.compressed, part.uncompressed)]
    rows = int(group[_NUM_ROWS])
    if min(rows, *numbers) < 0:
        raise ValueError("its footer has a negative size")
    return RowGroupNumbers(rows, columns)


def _text(parts: list[bytes]) -> str:
    return b".".join(parts).decode("utf-8", "replace")


# Structures in Thrift's compact protocol. Every element takes a byte at least, so that nothing
# becomes larger than the bytes it is read from; what ends too early is an IndexError.


def _struct(data: bytes, at: int, wanted: _Wanted) -> tuple[dict[int, Any], int]:
    """The wanted fields of a structure, by number, and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while head := data[at]:
        at += 1
        kind = head & 15
        if head > 15:
            number += head >> 4
        else:
            number, at = _signed(data, at)
        inner = wanted.get(number)
        if inner is None:
            at = _passed(data, at, kind, 0)
        else:
            fields[number], at = _value(data, at, kind, inner)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, wanted: _Wanted) -> tuple[Any, int]:
    if kind in _INTEGERS:
        return _signed(data, at)
    if kind == _STRUCT:
        return _struct(data, at, wanted)
    if kind == _BINARY:
        count, at = _unsigned(data, at)
        return data[at : at + count], at + count
    if kind != _LIST:
        raise ValueError(f"its footer has a field of type {kind}")
    count, kind, at = _list(data, at)
    values = []
    for _ in range(count):
        value, at = _value(data, at, kind, wanted)
        values.append(value)
    return values, at


def _passed(data: bytes, at: int, kind: int, depth: int) -> int:
    """Where a value ends that is not wanted."""
    if kind in _INTEGERS:
        while data[at] > 127:
            at += 1
        return at + 1
    if kind == _BINARY:
        count, at = _unsigned(data, at)
        return at + count
    if kind < _SHORT:
        return at
    if depth > _DEPTH:
        raise ValueError("its footer is nested too deeply")
    if kind == _STRUCT:
        while head := data[at]:
            at += 1
            if head < 16:
                _, at = _unsigned(data, at)
            at = _passed(data, at, head & 15, depth + 1)
        return at + 1
    if kind in (_LIST, _SET):
        count, kind, at = _list(data, at)
        if kind < _SHORT:
            return at + count
        for _ in range(count):
            at = _passed(data, at, kind, depth + 1)
        return at
    if kind in (_SHORT, _DOUBLE):
        return at + (1 if kind == _SHORT else 8)
    raise ValueError(f"its footer has a field of type {kind}")


def _list(data: bytes, at: int) -> tuple[int, int, int]:
    """How many values a list has, their type, and where they begin."""
    head = data[at]
    count, at = head >> 4, at + 1
    if count == _LONG_LIST:
        count, at = _unsigned(data, at)
    if count > len(data) - at:
        raise ValueError("its footer ends in mid-list")
    return count, head & 15, at


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while (byte := data[at]) > 127:
        number |= (byte & 127) << shift
        shift += 7
        at += 1
        if shift > 63:
            raise ValueError("its footer has a number of more than 64 bits")
    return number | byte << shift, at + 1


def _signed(data: bytes, at: int) -> tuple[int, int]:
    number, at = _unsigned(data, at)
    return (number >> 1) ^ -(number & 1), at
