"""The numbers of a Parquet file's footer, read without pyarrow's accessors.

``metadata.row_group(g)``, ``.column(c)`` and ``.write_metadata_file()`` of pyarrow end the process
where a footer contradicts itself: an exception of C++ meets a declaration that lets none through.
Reading the data raises as it should. So what has to be known of a stranger's file before its data
are read is taken from the footer's bytes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labelstore.thrift import Wanted, struct

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["ColumnNumbers", "OpenFile", "RowGroupNumbers", "footer_of", "row_groups"]

_MAGIC, _END = b"PAR1", 8
"""The mark at a file's end, and the bytes that it takes with the footer's length before it."""

_ROW_GROUPS, _COLUMNS, _NUM_ROWS, _META_DATA = 4, 1, 3, 3
_TYPE, _PATH, _NUM_VALUES, _UNCOMPRESSED, _COMPRESSED, _STATISTICS = 1, 3, 5, 6, 7, 12
_DATA_PAGE, _DICTIONARY_PAGE = 9, 11
_NULLS = 3
"""Numbers of fields: of FileMetaData, RowGroup, ColumnChunk, ColumnMetaData and Statistics."""

_COLUMN: Wanted = {field: {} for field in (_TYPE, _PATH, _NUM_VALUES, _UNCOMPRESSED, _COMPRESSED)}
_COLUMN |= {_DATA_PAGE: {}, _DICTIONARY_PAGE: {}}
_COLUMN[_STATISTICS] = {_NULLS: {}}
_FOOTER: Wanted = {_ROW_GROUPS: {_COLUMNS: {_META_DATA: _COLUMN}, _NUM_ROWS: {}}}
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
    start: int
    """The byte of the file at which its first page begins."""
    kind: int
    """Its physical type, by Parquet's number."""


@dataclass(frozen=True)
class RowGroupNumbers:
    """A row group."""

    rows: int
    columns: tuple[ColumnNumbers, ...]


@dataclass(frozen=True)
class OpenFile:
    """A file that is read."""

    file: pq.ParquetFile
    size: int
    """Bytes."""
    footer: bytes
    source: pa.NativeFile
    """Its bytes."""

    @functools.cached_property
    def groups(self) -> list[RowGroupNumbers]:
        """Its row groups, in order; ValueError where the footer does not tell."""
        return row_groups(self.footer)

    def columns(self, groups: Iterable[int], names: Sequence[str]) -> list[ColumnNumbers]:
        """The columns of some names in some row groups; ValueError as ``groups``."""
        return [
            column
            for group in groups
            for column in self.groups[group].columns
            if column.name in names
        ]


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
        fields, _ = struct(footer, 0, _FOOTER)
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
            start=_start(part),
            kind=int(part[_TYPE]),
        )
        for part in parts
    )
    numbers = [
        number
        for part in columns
        for number in (part.values, part.compressed, part.uncompressed, part.start)
    ]
    rows = int(group[_NUM_ROWS])
    if min(rows, *numbers) < 0:
        raise ValueError("its footer has a negative size")
    return RowGroupNumbers(rows, columns)


def _start(part: dict[int, Any]) -> int:
    """Where a column begins, as pyarrow takes it."""
    data, dictionary = int(part[_DATA_PAGE]), int(part.get(_DICTIONARY_PAGE, 0))
    return dictionary if 0 < dictionary < data else data


def _text(parts: list[bytes]) -> str:
    return b".".join(parts).decode("utf-8", "replace")
