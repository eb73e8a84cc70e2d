"""The pages of a Parquet file's columns: what their headers claim, before pyarrow believes it.

A page's header says how many bytes the page will be and how many values its dictionary has, and
pyarrow takes that much memory first. Only the headers are looked at here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labelstore.thrift import Wanted, struct

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa

    from labelstore.parquet_footer import ColumnNumbers

__all__ = ["check_pages", "ranges_of"]

_DATA, _DICTIONARY, _DATA_2 = 0, 2, 3
"""Types of pages that are decoded; others are passed over."""

_TYPE, _UNCOMPRESSED, _COMPRESSED = 1, 2, 3
_HEADER_OF = {_DATA: 5, _DICTIONARY: 7, _DATA_2: 8}
_VALUES = 1
"""Numbers of fields: of PageHeader, and of the headers of each type of page."""

_PAGE: Wanted = {_TYPE: {}, _UNCOMPRESSED: {}, _COMPRESSED: {}}
_PAGE |= {field: {_VALUES: {}} for field in _HEADER_OF.values()}

_WIDTHS = {1: 4, 2: 8, 3: 12, 4: 4, 5: 8, 6: 4}
"""Bytes that a value of a dictionary takes, at least, by physical type: of a text its length's."""

_WINDOW = 256
"""Bytes that are read at first: more than most headers have."""

_HEADER_BYTES = 2**24
"""Of a header, at most; pyarrow's own bound."""

_PADDING = 100
"""Bytes by which a column may be longer than its footer says: an old writer forgot a header."""

_GAP = 2**13
"""Bytes between two columns that are read rather than asked for apart."""


def check_pages(source: pa.NativeFile, columns: Iterable[ColumnNumbers]) -> int:
    """ValueError where the pages of columns are not what the footer says of their columns.

    Together they are as large as the column when decompressed, lie within it, and have no more
    values; a dictionary has the bytes that its values take.

    Args:
        source: the file. columns: those that will be read.

    Returns:
        the bytes of the largest dictionary, 0 without: any row may stand for as many.
    """
    largest = 0
    for column in columns:
        try:
            largest = max(largest, _check_column(source, column))
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"a page header of its column {column.path}: {error}") from error
    return largest


def _check_column(source: pa.NativeFile, column: ColumnNumbers) -> int:
    at, stop = column.start, column.start + column.compressed + _PADDING
    values = expanded = largest = 0
    while values < column.values and at < stop - _PADDING:
        header, at = _header(source, at, stop)
        kind, size = header[_TYPE], header[_COMPRESSED]
        expanded += header[_UNCOMPRESSED]
        at += size
        if min(size, header[_UNCOMPRESSED]) < 0 or at > stop:
            raise ValueError(
                f"a page of {size:,} bytes, {header[_UNCOMPRESSED]:,} when decompressed, in a "
                f"column of {column.compressed:,}"
            )
        if expanded > column.uncompressed:
            raise ValueError(
                f"its pages are {expanded:,} bytes when decompressed, expected "
                f"{column.uncompressed:,}"
            )
        if kind not in _HEADER_OF:
            continue
        count = header[_HEADER_OF[kind]][_VALUES]
        if kind == _DICTIONARY:
            largest = max(largest, header[_UNCOMPRESSED])
            most = header[_UNCOMPRESSED] // _WIDTHS.get(column.kind, 1)
        else:
            most = column.values - values
            values += count
        if not 0 <= count <= most:
            raise ValueError(f"a page of {count:,} values, expected at most {most:,}")
    return largest


def _header(source: pa.NativeFile, at: int, stop: int) -> tuple[dict[int, Any], int]:
    """The header at a byte, and where it ends."""
    window = _WINDOW
    while True:
        data = source.read_at(min(window, stop - at), at)
        try:
            header, length = struct(data, 0, _PAGE)
        except (IndexError, ValueError):
            # It may go on behind what was read: one with statistics does.
            if len(data) < window or window >= _HEADER_BYTES:
                raise
            window *= 8
        else:
            return header, at + length


def ranges_of(columns: Sequence[ColumnNumbers]) -> list[tuple[int, int]]:
    """The parts (start, length) of a file that hold columns, in order; near ones are one."""
    ranges: list[tuple[int, int]] = []
    for column in sorted(columns, key=lambda column: column.start):
        start, length = column.start, column.compressed
        if ranges and start <= sum(ranges[-1]) + _GAP:
            first = ranges[-1][0]
            ranges[-1] = first, max(sum(ranges[-1]), start + length) - first
        else:
            ranges.append((start, length))
    return ranges
