"""Page headers of Parquet files, taken apart and put together again with something else in them."""

from __future__ import annotations

import pyarrow as pa

from labelstore.storage.parquet.footer import footer_of, row_groups

TYPE, UNCOMPRESSED, COMPRESSED, CRC = 1, 2, 3, 4
DATA, DICTIONARY = 5, 7
VALUES = 1
"""Numbers of fields."""

_TRUE, _FALSE, _BINARY, _STRUCT = 1, 2, 8, 12


class Page:
    """A page of a column: where its header lies in a file, and its fields.

    Attributes:
        column: of the footer.
        fields: field numbers and [type, value], a structure's value being such fields again.
    """

    def __init__(self, data, start, column):
        self.start, self.column = start, column
        self.fields, self.stop = _fields(data, start)

    @property
    def after(self):
        """The byte at which the next page begins."""
        return self.stop + self.fields[COMPRESSED][1]

    def in_place(self, data):
        """The file with the header as it is now, in as many bytes: its checksum makes room."""
        self.fields.pop(CRC, None)
        room = self.stop - self.start
        for padding in range(9):
            header = _encoded(self.fields, padding)
            if len(header) == room:
                return data[: self.start] + header + data[self.stop :]
        raise ValueError("the header has no room")


def pages_of(data):
    """All pages of a Parquet file."""
    pages = []
    for group in row_groups(footer_of(pa.BufferReader(data))):
        for column in group.columns:
            at = column.start
            while at < column.start + column.compressed:
                pages.append(Page(data, at, column))
                at = pages[-1].after
    return pages


CLAIMS = {"size": (UNCOMPRESSED,), "values": (DATA, VALUES), "dictionary": (DICTIONARY, VALUES)}
"""Numbers of a page header that pyarrow takes memory by."""


def claiming(data, number=2_000_000_000):
    """By column and kind of claim, the file with one page header that claims a number."""
    forged = {}
    for place, page in enumerate(pages_of(data)):
        for claim, (*holders, last) in CLAIMS.items():
            page = pages_of(data)[place]
            fields, key = page.fields, (page.column.path, claim)
            if key in forged or (holders and holders[0] not in fields):
                continue
            for holder in holders:
                fields = fields[holder][1]
            fields[last][1] = number
            forged[key] = page.in_place(data)
    return forged


def _fields(data, at):
    fields, number = {}, 0
    while head := data[at]:
        number, kind, at = number + (head >> 4), head & 15, at + 1
        value, at = _value(data, at, kind)
        fields[number] = [kind, value]
    return fields, at + 1


def _value(data, at, kind):
    if kind in (_TRUE, _FALSE):
        return None, at
    if kind == _STRUCT:
        return _fields(data, at)
    number = shift = 0
    while True:
        number |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            break
    if kind == _BINARY:
        return data[at : at + number], at + number
    return number >> 1 ^ -(number & 1), at


def _encoded(fields, padding=0):
    """Fields as bytes, the size of the page in ``padding`` bytes more than it needs."""
    made, last = bytearray(), 0
    for number, (kind, value) in fields.items():
        made.append(number - last << 4 | kind)
        last = number
        if kind == _STRUCT:
            made += _encoded(value)
        elif kind == _BINARY:
            made += _varint(len(value)) + value
        elif kind not in (_TRUE, _FALSE):
            spare = padding if number == UNCOMPRESSED else 0
            made += _varint(value << 1 ^ value >> 63, spare)
    return bytes(made) + b"\0"


def _varint(number, padding=0):
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    made.append(number)
    if padding:
        made[-1] |= 128
        made += b"\x80" * (padding - 1) + b"\0"
    return bytes(made)
